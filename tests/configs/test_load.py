"""Strict configs: what is taken, what is refused, and in which words; and all configs of the project."""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.language.config import LmTrainConfig
from asr.recipe import TrainConfig
from asr.waveform_config import WaveformConfig
from configs import load
from pipelines.sweep_config import SweepConfig
from shards.spec import FrontendSpec


@dataclass(frozen=True)
class Oven:
    heat_c: float = 200.0
    rack: int = 2
    fan: bool = False


@dataclass(frozen=True)
class Recipe:
    name: str
    oven: Oven = field(default_factory=Oven)
    times_s: tuple[float, ...] = (60.0,)
    size: tuple[int, int] = (10, 20)
    grain: Literal["rye", "wheat"] = "rye"
    salt: float | None = None
    extras: dict[str, Any] = field(default_factory=dict)


Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_nested_values_tuples_literals_and_defaults(write: Write) -> None:
    text = (
        "name: brød\noven: {heat_c: 220, fan: true}\ntimes_s: [60, 2.5]\nsize: [1, 2]\ngrain: wheat\nextras: {a: [1]}"
    )
    recipe = load.load(Recipe, write(text), "none")
    assert recipe == Recipe("brød", Oven(220.0, 2, True), (60.0, 2.5), (1, 2), "wheat", None, {"a": [1]})
    assert isinstance(recipe.oven.heat_c, float)


@pytest.mark.parametrize(("text", "value"), [("5e-4", 5e-4), ("1", 1.0), ("'2.5'", 2.5), ("1.0e3", 1000.0)])
def test_numbers_as_people_write_them(write: Write, text: str, value: float) -> None:
    recipe = load.load(Recipe, write(f"name: a\nsalt: {text}\noven: {{heat_c: {text}}}"), "none")
    assert (recipe.salt, recipe.oven.heat_c) == (value, value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\ngrian: rye", "unknown key grian (did you mean grain?)"),
        ("name: a\noven: {heat: 1}", "oven: unknown key heat (did you mean heat_c?)"),
        ("name: a\nrack: 1", "unknown key rack (did you mean oven.rack?)"),
        ("name: a\nheat: 1", "unknown key heat (did you mean oven.heat_c?)"),
        ("name: a\nzzz: 1", "unknown key zzz (known: name, oven, times_s, size, grain, salt, extras)"),
        ("grain: rye", "name is missing"),
        ("", "name is missing"),
        ("name: 3", "name is 3; it takes text"),
        ("name: a\noven: {rack: 2.5}", "rack is 2.5; it takes a whole number"),
        ("name: a\noven: {rack: true}", "rack is True; it takes a whole number"),
        ("name: a\noven: {fan: 1}", "fan is 1; it takes true or false"),
        ("name: a\noven: {heat_c: hot}", "heat_c is 'hot'; it takes a number"),
        ("name: a\noven: {heat_c: true}", "heat_c is True; it takes a number"),
        ("name: a\noven: 3", "oven: expected keys with values, found 3"),
        ("name: a\noven:", "oven: expected keys with values, found None"),
        ("name: a\ngrain: oat", "grain is 'oat'; it can be rye, wheat"),
        ("name: a\ntimes_s: 3", "times_s is 3; it takes a list such as [1, 2]"),
        ("name: a\ntimes_s: [x]", "times_s is 'x'; it takes a number"),
        ("name: a\nsize: [1]", "size is [1]; it takes 2 values"),
        ("name: a\nextras: [1]", "extras is [1]; it takes keys with values"),
        ("- a\n- b", "expected keys with values, found ['a', 'b']"),
        ("name: [", "not YAML: "),
        ("name: !!python/object/apply:os.getcwd []", "not YAML: "),
    ],
)
def test_what_does_not_fit_is_one_line_with_the_place_and_the_way_out(write: Write, text: str, message: str) -> None:
    path = write(text)
    for overrides in ([], ["grain=rye"] if "grain" not in text else []):
        with pytest.raises(ValueError, match="recipe") as err:
            load.load(Recipe, path, "none", overrides)
        assert str(err.value).startswith(f"{path}: ") and message in str(err.value)
        assert "\n" not in str(err.value)


def test_overrides_reach_nested_values_and_are_checked_like_the_file(write: Write) -> None:
    path = write("name: a\noven: {rack: 1}")
    recipe = load.load(Recipe, path, "none", ["oven.heat_c=5e-1", "oven.fan=true", "size=[3, 4]", "name=b=c", "salt=1"])
    assert recipe == Recipe("b=c", Oven(0.5, 1, True), size=(3, 4), salt=1.0)
    assert load.load(Recipe, path, "none", ["salt=1", "salt="]).salt is None
    for override, message in [
        ("oven.rakc=1", "unknown key rakc (did you mean rack?)"),
        ("oven", "oven: a setting is written key.sub=value"),
        ("name.first=1", "name.first=1: name is a value and has nothing below it"),
        ("size=[", "'[' is not a YAML value"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            load.load(Recipe, path, "none", [override])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["oven.heat_c=hot"], "setting oven.heat_c=hot: oven.heat_c is 'hot'; it takes a number"),
        (["oven.rakc=1"], "setting oven.rakc=1: oven: unknown key rakc (did you mean rack?)"),
        (["ovne.rack=1"], "setting ovne.rack=1: unknown key ovne (did you mean oven?)"),
        (["oven={rack: top}"], "setting oven={rack: top}: oven.rack is 'top'; it takes a whole number"),
        (["salt.fine=1"], "setting salt.fine=1: salt is {'fine': 1}; it takes a number"),
        (["grain=oat", "grain=nut"], "setting grain=nut: grain is 'nut'; it can be rye, wheat"),
        (["oven=3"], "setting oven=3: oven: expected keys with values, found 3"),
        (["oven.rack=1", "times_s=[3]"], "FILE: size is [1]; it takes 2 values"),
        (["oven.rack=1", "size=[1, 2]"], "FILE: times_s is 3; it takes a list such as [1, 2]"),
    ],
)
def test_a_wrong_value_is_blamed_on_the_file_or_on_the_setting_that_gave_it(
    write: Write, settings: list[str], message: str
) -> None:
    path = write("name: a\nsize: [1]\ntimes_s: 3" if "FILE" in message else "name: a")
    with pytest.raises(ValueError) as err:
        load.load(Recipe, path, "none", settings)
    assert str(err.value) == message.replace("FILE", path)


def test_a_setting_is_not_blamed_for_what_stands_beside_it(write: Write) -> None:
    path = write("name: a\noven: {heat: 1}")
    with pytest.raises(ValueError) as err:
        load.load(Recipe, path, "none", ["oven.rack=1"])
    assert str(err.value) == f"{path}: oven: unknown key heat (did you mean heat_c?)"


@given(st.floats(allow_nan=False), st.integers(), st.booleans(), st.text(max_size=5))
def test_what_asdict_gives_is_read_back(salt: float, rack: int, fan: bool, name: str) -> None:
    recipe = Recipe(name, Oven(salt, rack, fan), (salt,), (rack, rack), "wheat", salt)
    assert load.build(Recipe, asdict(recipe), "here") == recipe


def test_a_config_that_is_not_there_is_named_with_its_neighbours(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no config called defaullt \(did you mean default\?\); there are 8k, default"
    ):
        load.load(FrontendSpec, "defaullt", "frontend")
    with pytest.raises(ValueError, match="no such config file"):
        load.load(FrontendSpec, str(tmp_path / "a.yaml"), "frontend")


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"name: br\xf8d")
    with pytest.raises(ValueError, match=r"a\.yaml: not YAML: "):
        load.load(Recipe, str(tmp_path / "a.yaml"), "none")


# The project's own

KINDS: dict[str, type] = {
    "augment": WaveformConfig, "frontend": FrontendSpec, "lm": LmTrainConfig, "sweeps": SweepConfig,
    "train": TrainConfig,
}  # fmt: skip
FILES = sorted(load.FOLDER.rglob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_config_of_the_project_is_one(path: Path) -> None:
    folder = path.parent.relative_to(load.FOLDER).as_posix()
    config: object = load.load(KINDS[folder], path.stem, folder)
    assert config == load.load(KINDS[folder], str(path), folder)
    if isinstance(config, TrainConfig):
        assert config.frontend in load.names("frontend")


def test_the_configs_were_found_and_the_default_frontend_is_the_default() -> None:
    assert {path.parent.name for path in FILES} == set(KINDS)
    assert load.load(FrontendSpec, "default", "frontend") == FrontendSpec()
