"""What the trainings of a sweep have shown: a table, and sentences that say no more than its figures."""

import itertools
import math
from collections.abc import Sequence

from configs import cli
from pipelines.sweep_compare import difference
from pipelines.sweep_config import SweepConfig, budget
from pipelines.sweep_outcome import NO_FIGURE, Outcome, interval, percent

HEADER = (
    "point", "parameters", "encoder", "enc : pred", "left out", "steps", "hours", "minutes", "loss", "dev WER",
    "95 % interval", "over seeds",
)  # fmt: skip
LEGEND = (
    "encoder: its share of the parameters, the CTC head of training among them; enc : pred: parameters of the encoder "
    "for one of the predictor; left out: utterances that are not trained on, as they have more pieces than encoder "
    "frames or are too long; hours: of audio, all epochs together; minutes: of training; loss: at the end, of an "
    "utterance, in nats; dev WER: of the last checkpoint."
)


def row(outcome: Outcome) -> list[str]:
    """The cells under HEADER."""
    if not outcome.parameters:
        return [outcome.label, *[NO_FIGURE] * (len(HEADER) - 1)]
    wer = outcome.wer
    spread = NO_FIGURE
    if wer is not None and outcome.seeds > 1:
        spread = f"{len(outcome.results)}: ± {100 * wer.spread:.2f}" if not math.isnan(wer.spread) else "1"

    def figure(name: str, form: str) -> str:
        value = outcome.mean(name)
        return NO_FIGURE if value is None else form.format(value)

    return [
        outcome.label,
        f"{outcome.parameters['total']:,}",
        f"{outcome.encoder_share:.1%}",
        NO_FIGURE if math.isnan(outcome.ratio) else f"{outcome.ratio:.2f}",
        f"{outcome.left_out:,}",
        figure("steps", "{:,.0f}"),
        figure("hours", "{:.2f}"),
        figure("minutes", "{:.1f}"),
        figure("loss", "{:.2f}"),
        percent(wer.mean if wer else None),
        interval(wer),
        spread,
    ]


def reasons(outcomes: Sequence[Outcome]) -> list[str]:
    return [f"{outcome.label}: {outcome.reason}" for outcome in outcomes if outcome.reason]


def widths(config: SweepConfig, outcomes: Sequence[Outcome]) -> list[str]:
    """The settings that were found for each point of a balance."""
    return [f"{o.label}: {', '.join(o.settings[-2:])}" for o in outcomes if config.balance is not None and o.parameters]


def findings(config: SweepConfig, outcomes: Sequence[Outcome]) -> list[str]:
    """Sentences on what the figures show; a difference that the intervals do not carry is called that."""
    sized = [o.parameters["total"] for o in outcomes if o.parameters]
    said = []
    if config.balance is not None and sized:
        most = max(abs(size / config.balance.parameters - 1) for size in sized)
        said.append(f"All models have {config.balance.parameters:,.0f} parameters within {most:.1%}.")
    done = [o for o in outcomes if o.wer is not None]
    if len(done) < 2:
        return [*said, "Fewer than two points have a result: there is nothing to compare."]
    if any(math.isnan(o.wer.low) for o in done if o.wer):
        return [*said, "The dev set is too small for intervals: nothing is said about differences."]
    said += [*_best(done), *_steps(done), _how(done)]
    if {len(o.results) for o in done} == {1}:
        said.append("One seed: how far another seed would have come is not in these intervals.")
    if len({o.left_out for o in done}) > 1:
        said.append("Not all points were trained on the same utterances: see the column “left out”.")
    said += _by_time(config, done)
    if config.against == "vocab":
        said.append("Losses are not to be compared: each is that of the pieces of its own vocabulary.")
    return said


def _by_time(config: SweepConfig, outcomes: Sequence[Outcome]) -> list[str]:
    limit = budget(config.budget)
    if limit.unit != "minutes":
        return []
    results = [result for outcome in outcomes for result in outcome.results]
    epochs = [result["epochs"] for result in results]
    said = [f"Time ended the trainings, after {min(epochs):.1f} to {max(epochs):.1f} epochs: a learning rate that "
            "falls with the share of the epochs that is done was not at its end."]  # fmt: skip
    early = sum(result["minutes"] < limit.amount for result in results)
    return [*said, f"{early} of {len(results)} had all their epochs before time was over."] if early else said


def _best(done: Sequence[Outcome]) -> list[str]:
    best = min(done, key=lambda outcome: outcome.rate)
    said = [f"The lowest dev WER is that of {best.label}: {percent(best.rate)}, 95 % interval {interval(best.wer)}."]
    judged = [(o, difference(best, o).kind) for o in done if o is not best]
    if beside := [o.label for o, kind in judged if kind != "higher"]:
        said.append(f"No difference from it is shown for {_listed(beside)}.")
    if above := [o.label for o, kind in judged if kind == "higher"]:
        said.append(f"Higher than it: {_listed(above)}.")
    return said


def _steps(done: Sequence[Outcome]) -> list[str]:
    """From each point to the next, in the order of the table, and from the first to the last."""
    pairs = list(itertools.pairwise(done))
    if len(done) > 2:
        pairs.append((done[0], done[-1]))
    said = []
    for left, right in pairs:
        found = difference(left, right)
        said.append(f"{left.label} → {right.label}: {found.kind or 'no difference is shown'} ({found}).")
    return said


def _how(done: Sequence[Outcome]) -> str:
    seeds = "" if all(len(o.results) == 1 for o in done) else " and seeds"
    if math.isnan(difference(done[0], done[1]).low):
        return ("Points are called different where their intervals do not overlap, as the dev set has too few "
                "speakers to compare them speaker by speaker.")  # fmt: skip
    return ("Points are called different where the 95 % interval of their difference, speaker by speaker, does not "
            f"hold 0 (bootstrap over speakers{seeds}).")  # fmt: skip


def _listed(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"


def as_text(config: SweepConfig, outcomes: Sequence[Outcome]) -> str:
    """For the terminal."""
    parts = [cli.table(list(HEADER), [row(o) for o in outcomes])]
    parts += ["\n".join(reasons(outcomes))] if reasons(outcomes) else []
    tested = [f"Tested: {config.advice}"] if config.advice else []
    return "\n\n".join([*parts, "\n".join([*tested, *findings(config, outcomes)])])


def as_markdown(config: SweepConfig, outcomes: Sequence[Outcome], facts: dict[str, str]) -> str:
    lines = [f"# {config.title}", ""]
    lines += [f"Tested: *{config.advice}*", ""] if config.advice else []
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    cells = [list(HEADER), ["---", *["---:"] * (len(HEADER) - 1)], *(row(o) for o in outcomes)]
    lines += ["", *("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells), ""]
    lines += [*(f"- {line}" for line in reasons(outcomes)), ""] if reasons(outcomes) else []
    lines += [*(f"- {line}" for line in widths(config, outcomes)), ""] if config.balance is not None else []
    lines += [LEGEND, "", *(f"- {line}" for line in findings(config, outcomes))]
    return "\n".join(lines) + "\n"
