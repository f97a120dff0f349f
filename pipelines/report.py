"""report.html beside a manifest: what is in it, what was left out, and a dozen utterances to listen to."""

import pyarrow as pa

from manifests import storage
from pipelines.leaks import Leaks
from pipelines.report_page import render
from pipelines.reporting.facts import gather

REPORT = "report.html"


def write(out: str, table: pa.Table, dropped: pa.Table, leaks: Leaks | None, title: str, command: str) -> None:
    """Write `out`/report.html: one file that needs no other. The same input gives the same bytes.

    `table` and `dropped` are as in manifest.parquet and dropped.parquet; either may be empty. `leaks` is what was
    found before rows were dropped for it, None when nobody looked. Audio that cannot be read any more is said so.
    """
    storage.write_text(storage.join(out, REPORT), render(gather(table, dropped, leaks), title, command))
