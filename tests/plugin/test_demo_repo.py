"""What the demo lays out: views of pages only where there are pages."""

from __future__ import annotations

from pathlib import Path

from provender.plugin.demo import _leave_out
from provender.plugin.repo import lay_out, views_in_repo


def test_views_of_pages_are_left_out_unless_they_are_somebodys_own(tmp_path: Path) -> None:
    lay_out(tmp_path / "repo")
    pages = tmp_path / "repo" / "page_views.py"
    own = pages.read_text() + "# mine\n"
    _leave_out(pages)
    _leave_out(tmp_path / "repo" / "upstream_views.py")
    names = {view.spec.view_name for view in views_in_repo(tmp_path / "repo")}
    assert names == {"user_transra_v1", "pin_transra_v1"}
    pages.write_text(own)
    _leave_out(pages)
    assert pages.read_text() == own
    assert len(views_in_repo(tmp_path / "repo")) == 4
