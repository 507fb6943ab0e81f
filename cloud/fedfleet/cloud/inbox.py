"""Updates in parts, put together a device at a time, with no more memory than one update a device."""

from __future__ import annotations

from fedfleet.wire import frames
from fedfleet.wire.chunks import Assembly, Part, join, open_part
from fedfleet.wire.codecs import codec
from fedfleet.wire.errors import FrameError
from fedfleet.wire.messages import MAX_ROUND, Receipt, Task, Update, seen


class Inbox:
    """Parts in, whole updates or receipts out."""

    def __init__(self, codec_name: str, parameters: int) -> None:
        """Expect updates of `parameters` weights, encoded as the plan says."""
        self._codec = codec_name
        self._size = codec(codec_name).size(parameters)
        self._parts: dict[str, Assembly] = {}

    def take(self, device: str, frame: bytes, task: Task) -> Update | Receipt | None:
        """Return the update that `frame` completes, a receipt for what can be answered at once, or None.

        Raises FrameError for a part that fits no update of this task: wrong size, wrong codec, wrong bytes.
        """
        part, body = open_part(frame)
        if part.round != task.round:
            self._parts.pop(device, None)
            return Receipt(part.round, "refused", reason=f"round {part.round} is not the task's, {task.round}")
        self._check(part)
        assembly = self._parts.get(device)
        if assembly is None or assembly.blob != part.blob:
            assembly = self._parts[device] = Assembly(part.blob)
        assembly.add(part.index, body)
        if missing := assembly.missing():
            # The last part has come and others have not: ask for them. Before that they may still be on their way.
            at_end = part.index == part.blob.chunks - 1
            return Receipt(part.round, "missing", missing=missing[:256]) if at_end else None
        del self._parts[device]
        return join(device, part, assembly.finish())

    def refusal(self, device: str, frame: bytes, reason: str) -> Receipt | None:
        """Return the receipt for a part that `take` refused; None where it does not even name a round."""
        self._parts.pop(device, None)
        try:
            round_ = frames.unpack(frame)[0].get("round")
        except FrameError:
            return None
        if not isinstance(round_, int) or isinstance(round_, bool) or not 1 <= round_ <= MAX_ROUND:
            return None
        return Receipt(round_, "refused", reason=seen(reason))

    def _check(self, part: Part) -> None:
        if part.codec != self._codec:
            raise FrameError(f"update is encoded as {part.codec[:32]!r}, the plan says {self._codec}")
        if part.blob.size != self._size:
            raise FrameError(f"update has {part.blob.size} bytes, the model's take {self._size}")
