"""A real agent, started by `launch`, over a real mosquitto: from one version to the next, and on in the next round."""

from __future__ import annotations

from pathlib import Path

from brokers import needs_mosquitto
from ota.boards import bundle
from ota.fleets import fleet

from fedfleet.models.compiled import Compiled

pytestmark = needs_mosquitto


def test_an_agent_updates_itself_and_trains_in_the_next_round(small: Compiled, tmp_path: Path) -> None:
    with fleet(small, tmp_path) as cloud:
        cloud.rounds(1)
        assert (cloud.status.version, cloud.status.release) == ("1.0.0", "")
        cloud.owner.release(bundle(tmp_path / "b", "2.0.0", other={"other.py": b"value = 1\n"}))
        cloud.publish("2.0.0")
        cloud.until(lambda: cloud.status.version == "2.0.0")
        cloud.until(lambda: cloud.status.release.startswith("2.0.0 good"))
        cloud.rounds(2)
        board = cloud.board
        assert (board.current, (board.slots / "previous").readlink().name) == ("2.0.0", "1.0.0")
        assert board.codes == [75]
        assert not (board.slots / "trial.json").exists()
        # what both versions have alike is the same file, and was never fetched
        assert (board.slots / "2.0.0/site/other.py").samefile(board.slots / "1.0.0/site/other.py")
        assert [record.state for record in cloud.records] == ["closed"] * len(cloud.records)
        assert board.stop() == 0
