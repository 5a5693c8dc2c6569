"""Where the files lie: beside this folder, wherever `feast` is run from."""

from pathlib import Path

from feast import FileSource
from feast.data_format import ParquetFormat

HOME = Path(__file__).resolve().parent.parent

#: Takes the snapshots of every embedding view, each in a folder of the view's name.
SNAPSHOTS = HOME / "snapshots"


def counter_files(entity: str) -> FileSource:
    """Return the source over all refreshes of one entity's counters."""
    return FileSource(
        name=f"{entity}_counter_files",
        path=str(HOME / "features" / f"{entity}_counters" / "*.parquet"),
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )


user_counter_files = counter_files("user")
pin_counter_files = counter_files("pin")
