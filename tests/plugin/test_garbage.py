from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provender.plugin.garbage import Plan, Survey, Thing, plan
from provender.plugin.gates import Gates
from provender.plugin.lineage import Ranker
from provender.plugin.manifest import Manifest
from provender.plugin.ranker_stamp import RankerStamp, TrainedOn
from provender.plugin.releases import Release
from provender.plugin.snapshot import Snapshot
from provender.plugin.spec import EmbeddingSpec
from provender.plugin.table_records import TableRecord

T = datetime(2026, 3, 10, tzinfo=UTC)
DAY = timedelta(days=1)
ROOT = Path("/home/snapshots")
#: What a manifest has of its view.
SHARED = ("version", "entity", "join_key", "dim", "dtype", "space", "producer", "family")


def spec(version: int, entity: str = "user", **given: Any) -> EmbeddingSpec:
    fields = {
        "name": f"{entity}_transra",
        "version": version,
        "entity": entity,
        "join_key": f"{entity}_id",
        "dim": 4,
        "space": f"transra_v{version}",
        "producer": "transra",
        "ttl": DAY,
    }
    return EmbeddingSpec.declare(**fields | given)


def run_id(version: int, day: int) -> str:
    return f"transra-{T + day * DAY:%Y%m%dT%H%M%SZ}-{version:010x}"


def snapshot(of: EmbeddingSpec, day: int, **given: Any) -> Snapshot:
    as_of = T + day * DAY
    shared = {name: getattr(of, name) for name in SHARED}
    fields = {
        "run_id": run_id(of.version, day),
        "config_hash": "c",
        "code_version": "1",
        "view": of.view_name,
        "as_of": as_of,
        "window_start": as_of - DAY,
        "window_end": as_of,
        "rows": 1,
        "files": (),
        "checksum": "d",
        "created_at": as_of,
    }
    manifest = Manifest.model_validate({**shared, **fields, **given})
    return Snapshot(ROOT / of.view_name / f"{as_of:%Y%m%dT%H%M%SZ}", manifest)


def release(**given: Any) -> Release:
    fields = {"family": "transra", "serial": 1, "action": "promote", "at": T, "by": "a@b"}
    return Release.model_validate(fields | given)


def table(of: EmbeddingSpec, runs: Iterable[Snapshot] = (), name: str = "") -> TableRecord:
    return TableRecord(
        name=name or f"p_{of.view_name}",
        project="p",
        view=of.view_name,
        runs=tuple(each.manifest.record for each in runs),
    )


def ranker(of: EmbeddingSpec, runs: Iterable[Snapshot]) -> Ranker:
    stamp = RankerStamp(
        run_id="r",
        config_hash="c",
        code_version="1",
        service="s",
        window_start=T,
        window_end=T,
        rows=1,
        views=(TrainedOn(spec=of, runs=tuple(each.manifest.record for each in runs)),),
        dense=(),
        preprocessing="p",
        trained_at=T,
    )
    return Ranker(Path("old.safetensors"), stamp)


def of_specs(*specs: EmbeddingSpec, **given: Any) -> Survey:
    by_name = {each.view_name: each for each in specs}
    fields = {"project": "p", "specs": by_name, "views": frozenset(by_name)}
    return Survey(**fields | given)


def gone(survey: Survey) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for thing in plan(survey).gone:
        found.setdefault(thing.kind, []).append(thing.name)
    return found


def why(survey: Survey, kind: str, name: str) -> str:
    (found,) = [each for each in plan(survey).kept if (each.kind, each.name) == (kind, name)]
    return found.why


class TestVersions:
    @pytest.mark.parametrize("state", [{"live": 1}, {"former": 1}, {"candidate": 1}, {}])
    def test_what_is_not_retired_stays(self, state: dict[str, Any]) -> None:
        survey = of_specs(spec(1), spec(2), releases={"transra": release(**{"live": 2} | state)})
        assert gone(survey) == {}

    def test_what_was_never_released_stays(self) -> None:
        assert gone(of_specs(spec(1), spec(2))) == {}

    def test_a_retired_one_goes(self) -> None:
        survey = of_specs(spec(1), spec(2), releases={"transra": release(live=2, retired=(1,))})
        assert gone(survey) == {"version": ["transra v1"]}

    def test_releases_of_another_family_say_nothing(self) -> None:
        other = release(family="other", live=2, retired=(1,))
        assert gone(of_specs(spec(1), spec(2), releases={"other": other})) == {}

    def test_the_anchor_of_a_version_without_a_snapshot_stays(self) -> None:
        retired = {"transra": release(live=2, retired=(1,))}
        newer = spec(3, space="transra_v1", anchored_to=1)
        survey = of_specs(spec(1), newer, releases=retired)
        assert why(survey, "version", "transra v1") == (
            "user_transra_v3 is anchored to it and has no snapshot yet"
        )
        assert gone(replace(survey, snapshots=(snapshot(newer, 0),))) == {"version": ["transra v1"]}


class TestLeftovers:
    def test_the_table_of_a_registered_view_of_the_same_name_stays(self) -> None:
        """Feast's native version 2 of `user_transra` has the name of our `user_transra_v2`."""
        record = TableRecord(name="p_user_transra_v2", project="p", view="user_transra")
        names = {"p_user_transra_v2": frozenset({("p", "user_transra_v2")})}
        survey = of_specs(spec(2), tables=(record,), table_views=names)
        assert gone(survey) == {}
        assert gone(replace(survey, table_views={})) == {"table": ["p_user_transra_v2"]}

    def test_the_table_that_another_project_has_by_the_same_name_stays(self) -> None:
        record = TableRecord(name="a_b_c", project="a", view="b_c")
        names = {"a_b_c": frozenset({("a_b", "c")})}
        survey = Survey(project="a", tables=(record,), table_views=names)
        assert why(survey, "table", "a_b_c") == "it is the table of c in project a_b"

    def test_what_is_declared_and_not_registered_yet_stays(self) -> None:
        survey = Survey(
            project="p",
            declared={spec(1).view_name: spec(1)},
            tables=(table(spec(1)),),
            snapshots=(snapshot(spec(1), 0),),
            sources={"user_transra_v1_snapshots": spec(1)},
        )
        assert gone(survey) == {}

    @pytest.mark.parametrize("family", ["transra", None])
    def test_what_a_release_holds_stays_unregistered(self, family: str | None) -> None:
        """Of manifests that are older than families, any release may be meant."""
        held = snapshot(spec(1), 0, family=family)
        live = {"transra": release(live=1)}
        survey = Survey(project="p", releases=live, snapshots=(held,), tables=(table(spec(1)),))
        assert gone(survey) == {}
        assert gone(replace(survey, releases={"transra": release(live=2)})) != {}

    def test_of_another_family_a_number_is_just_a_number(self) -> None:
        survey = Survey(
            project="p",
            releases={"other": release(family="other", live=1)},
            snapshots=(snapshot(spec(1), 0),),
        )
        assert gone(survey) == {"snapshot": ["user_transra_v1/20260310T000000Z"]}

    def test_what_another_view_reads_stays(self) -> None:
        readers = {"user_transra_v1": "feature view mine of project p"}
        survey = Survey(project="p", snapshots=(snapshot(spec(1), 0),), folder_readers=readers)
        assert gone(survey) == {}

    def test_where_other_files_lie_nothing_goes(self) -> None:
        one = snapshot(spec(1), 0)
        survey = Survey(project="p", snapshots=(one,), mixed=frozenset({one.path}))
        assert gone(survey) == {}


class TestRetention:
    def days(self, survey: Survey) -> list[int]:
        names = gone(survey).get("snapshot", [])
        return [int(name[len("user_transra_v1/202603") :][:2]) - 10 for name in names]

    def survey(self, **given: Any) -> Survey:
        """Ten days, each started from the one before."""
        days = [
            snapshot(spec(1), day, parent=run_id(1, day - 1) if day else None) for day in range(10)
        ]
        gates = {"transra": Gates(keep_days=3)}
        return of_specs(spec(1), **{"snapshots": tuple(days), "gates": gates} | given)

    def test_the_days_to_keep_are_counted_from_the_newest(self) -> None:
        assert self.days(self.survey()) == [0, 1, 2, 3, 4, 5]

    def test_each_says_why_it_stays(self) -> None:
        survey = self.survey(declared={spec(1).view_name: spec(1)})
        reason = why(survey, "snapshot", "user_transra_v1/20260319T000000Z")
        assert reason == "user_transra_v1 is registered"
        reason = why(replace(survey, specs={}, views=frozenset()), "snapshot",
                     "user_transra_v1/20260319T000000Z")  # fmt: skip
        assert reason == "declared and not registered yet: run `feast apply`"

    def test_by_default_all_are_kept(self) -> None:
        assert self.days(self.survey(gates={})) == []
        assert self.days(self.survey(gates={"other": Gates(keep_days=1)})) == []

    def test_the_newest_ones_parent_stays(self) -> None:
        survey = self.survey()
        newest = snapshot(spec(1), 9, parent=run_id(1, 4))
        survey = replace(survey, snapshots=(*survey.snapshots[:9], newest))
        assert self.days(survey) == [0, 1, 2, 3, 5]

    def test_what_is_loaded_online_stays(self) -> None:
        survey = self.survey()
        loaded = table(spec(1), survey.snapshots[:3])
        assert self.days(replace(survey, tables=(loaded,))) == [0, 1, 3, 4, 5]

    def test_what_rankers_learned_from_stays(self) -> None:
        survey = self.survey()
        readers = (ranker(spec(1), survey.snapshots[1:3]),)
        assert self.days(replace(survey, rankers=readers)) == [0, 3, 4, 5]
        unsaid = (ranker(spec(1), ()),)
        assert self.days(replace(survey, rankers=unsaid)) == []

    def test_of_a_view_that_only_a_ranker_needs_only_its_snapshots_stay(self) -> None:
        survey = self.survey(specs={}, views=frozenset())
        readers = (ranker(spec(1), survey.snapshots[1:3]),)
        assert self.days(replace(survey, rankers=readers)) == [0, 3, 4, 5, 6, 7, 8, 9]


class TestRuns:
    def survey(self, **given: Any) -> Survey:
        runs = {run_id(1, day): Path("/home/runs") / run_id(1, day) for day in (0, 5, 9)}
        fields = {"snapshots": (snapshot(spec(1), 5),), "runs": runs}
        return of_specs(spec(1), **fields | given)

    def test_before_the_newest_snapshot_a_run_without_one_is_over(self) -> None:
        assert gone(self.survey()) == {"run": [run_id(1, 0)]}
        assert why(self.survey(), "run", run_id(1, 9)) == "it may yet be gone on with"
        assert why(self.survey(), "run", run_id(1, 5)) == "its snapshots stay"

    def test_runs_whose_snapshots_lie_elsewhere_stay(self) -> None:
        assert gone(self.survey(runs_elsewhere=frozenset({run_id(1, 0)}))) == {}

    def test_other_producers_and_other_folders_are_left_alone(self) -> None:
        names = ["other-20260310T000000Z-0123456789", "impressions", "transra-x", "evaluation"]
        runs = {name: Path("/home/runs") / name for name in names}
        assert gone(self.survey(runs=runs)) == {}

    def test_a_run_stays_with_the_last_of_its_snapshots(self) -> None:
        both = (snapshot(spec(1), 5), snapshot(spec(1, "pin"), 5))
        runs = {run_id(1, 5): Path("r")}
        assert gone(self.survey(snapshots=both, runs=runs)) == {
            "snapshot": ["pin_transra_v1/20260315T000000Z"]
        }


# Any state at all: what is held is never touched, and gc may be killed between any two things.

VERSIONS = range(1, 5)
SPECS = {
    (entity, version): spec(version, entity, family="fam")
    for entity in ("user", "pin")
    for version in VERSIONS
}


@st.composite
def surveys(draw: st.DrawFn) -> Survey:
    some = st.sets(st.sampled_from(list(VERSIONS)))
    number = st.sampled_from([None, *VERSIONS])
    specs = [SPECS[each] for each in draw(st.sets(st.sampled_from(list(SPECS))))]
    live, candidate = draw(number), draw(number)
    state = release(
        family="fam",
        live=live,
        former=draw(number),
        candidate=candidate,
        retired=tuple(sorted(draw(some) - {live, candidate})),
    )
    snapshots = tuple(
        snapshot(SPECS[each], day, parent=run_id(each[1], day - 1))
        for each in draw(st.sets(st.sampled_from(list(SPECS))))
        for day in sorted(draw(st.sets(st.integers(0, 6), max_size=4)))
    )
    trained = draw(st.lists(st.sampled_from(snapshots), max_size=2)) if snapshots else []
    tables = []
    for each in draw(st.sets(st.sampled_from(list(SPECS)))):
        mine = [s for s in snapshots if s.manifest.view == SPECS[each].view_name]
        tables.append(table(SPECS[each], mine[: draw(st.integers(0, 3))]))
    runs = {run_id(v, day) for v in VERSIONS for day in draw(st.sets(st.integers(0, 6)))}
    declared = [spec for spec in SPECS.values() if spec.version in draw(some)]
    return of_specs(
        *specs,
        releases=draw(st.sampled_from([{}, {"fam": state}])),
        declared={each.view_name: each for each in declared} if draw(st.booleans()) else {},
        rankers=tuple(
            ranker(SPECS[each.manifest.entity, each.manifest.version], [each]) for each in trained
        ),
        gates={"fam": Gates(keep_days=draw(st.sampled_from([None, 1, 3])))},
        snapshots=snapshots,
        tables=tuple(tables),
        runs={each: Path("/home/runs") / each for each in sorted(runs)},
    )


def after(survey: Survey, things: Iterable[Thing]) -> Survey:
    """The same home without some things."""
    removed = list(things)
    views = {view for thing in removed for view in thing.views}
    names = {kind: {each.name for each in removed if each.kind == kind}
             for kind in ("table", "run", "snapshot")}  # fmt: skip
    return replace(
        survey,
        specs={name: each for name, each in survey.specs.items() if name not in views},
        views=survey.views - views,
        tables=tuple(each for each in survey.tables if each.name not in names["table"]),
        runs={name: path for name, path in survey.runs.items() if name not in names["run"]},
        snapshots=tuple(
            each
            for each in survey.snapshots
            if f"{each.manifest.view}/{each.path.name}" not in names["snapshot"]
        ),
    )


def left_of(survey: Survey) -> tuple[Any, ...]:
    """What stands when all of a plan is done."""
    end = after(survey, plan(survey).gone)
    paths = {each.path for each in end.snapshots}
    return set(end.views), {each.name for each in end.tables}, set(end.runs), paths


@settings(max_examples=300, deadline=None)
@given(surveys())
def test_what_is_held_is_never_touched(survey: Survey) -> None:
    decided: Plan = plan(survey)
    end = after(survey, decided.gone)
    state = survey.releases.get("fam")
    held = {state.live, state.former, state.candidate} if state else set()
    for name, each in survey.specs.items():
        if state is None or each.version in held or each.version not in state.retired:
            assert name in end.views
    for record in survey.tables:
        version = int(record.view[-1])
        if version in held or record.view in end.views:
            assert record in end.tables
    for view in {each.manifest.view for each in survey.snapshots}:
        newest = survey.snapshots_of(view)[-1]
        if newest.manifest.version in held or view in end.views:
            assert newest in end.snapshots
            assert newest.manifest.run_id not in {
                each.name for each in decided.gone if each.kind == "run"
            }
    for reader in survey.rankers:
        for run in reader.runs_of(reader.stamp.views[0].spec.view_name):
            assert run in {each.manifest.record for each in end.snapshots}
    assert len(decided.gone) + len(decided.kept) == len(set(decided.gone) | set(decided.kept))


@settings(max_examples=300, deadline=None)
@given(surveys(), st.data())
def test_killed_between_two_things_the_next_one_ends_the_same(
    survey: Survey, data: st.DataObject
) -> None:
    decided = plan(survey).gone
    done = data.draw(st.integers(0, len(decided)))
    assert left_of(after(survey, decided[:done])) == left_of(survey)


@settings(max_examples=100, deadline=None)
@given(surveys())
def test_done_twice_it_finds_nothing(survey: Survey) -> None:
    assert plan(after(survey, plan(survey).gone)).gone == ()
