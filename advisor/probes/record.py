"""Writes a machine to a folder, and reads a recorded machine back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from advisor.errors import AdvisorError
from advisor.facts.base import from_json
from advisor.facts.machine import Machine
from advisor.facts.text import clean
from advisor.probes.bundle import BUNDLE_SCHEMA, Bundle, BundleSource, RecordingSource
from advisor.probes.detect import Probed, detect, warnings_of
from advisor.probes.measured import Measurements, apply
from advisor.probes.sanity import Notes, sane_machine
from advisor.probes.source import LiveSource, Platform, Source, bad_machine_file

MAX_MACHINE_BYTES: Final = 4 << 20
# Variables that select devices by number or UUID.
_SELECTIONS: Final = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def record(
    folder: Path,
    *,
    source: Source | None = None,
    environment: Mapping[str, str] | None = None,
    deadline_s: float = 3.0,
    notes: tuple[str, ...] = (),
    measurements: Measurements | None = None,
) -> Probed:
    """Probe the machine and write every raw input that was read, scrubbed, to ``folder``.

    Replaying the folder (``load_machine``) gives the machine that is returned, its UUIDs replaced.

    Args:
        measurements: what was measured on the machine; those of a recorded one by default.

    Raises:
        AdvisorError: ``not-writable``; ``name-taken`` when the folder holds something already; ``probe-failed``.
    """
    from advisor.probes.scrub import Scrubber

    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AdvisorError(
            "name-taken",
            f"{clean(str(folder))} exists already and is not an empty folder.",
            hint="advisor probe --record NEW_FOLDER",
        )
    if measurements is None and isinstance(source, BundleSource):
        measurements = source.bundle.measurements
    recording = RecordingSource(source or LiveSource())
    probed = detect(recording, environment=environment, deadline_s=deadline_s)
    scrubber = Scrubber(recording.text("/proc/self/cgroup"), recording.text("/proc/self/mountinfo"))
    platform: Platform = recording.platform()
    bundle = Bundle(
        schema=BUNDLE_SCHEMA,
        provenance="real",
        made_from=f"recorded by advisor probe --record on {platform.system} {platform.machine}",
        notes=("names, identifiers and unused lines were taken out", *notes),
        platform=platform,
        affinity=recording.affinity(),
        names={path: found for path, found in sorted(recording.listed.items()) if found is not None},
        present=tuple(sorted(scrubber.path(path) for path, there in recording.present.items() if there)),
        links={path: scrubber.plain(to) for path, to in sorted(recording.links.items()) if to is not None},
        replies={question: scrubber.reply(question, reply) for question, reply in sorted(recording.replies.items())},
        environment={
            name: scrubber.plain(_whole(value, recording) if name in _SELECTIONS else value)
            for name, value in sorted((environment or {}).items())
        },
        measurements=measurements,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in sorted(recording.texts.items()):
            if text is not None:
                target = folder / "files" / scrubber.path(path).lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(scrubber.file(path, text).encode("utf-8", "replace"))
        (folder / "bundle.json").write_bytes(msgspec.json.format(bundle.dumps(), indent=1) + b"\n")
    except OSError as e:
        raise AdvisorError(
            "not-writable", f"The bundle cannot be written to {clean(str(folder))}: {e.strerror}."
        ) from e
    devices = tuple(
        msgspec.structs.replace(d, uuid=None if d.uuid is None else scrubber.plain(d.uuid))
        for d in probed.machine.devices
    )
    return _measured(probed._replace(machine=msgspec.structs.replace(probed.machine, devices=devices)), measurements)


def _measured(probed: Probed, measurements: Measurements | None) -> Probed:
    """The machine with what was measured on it, judged like all else that comes from a file."""
    if measurements is None:
        return probed
    machine = apply(probed.machine, measurements)
    machine = sane_machine(machine, Notes(machine.provenance))
    return Probed(machine=machine, warnings=tuple(dict.fromkeys((*probed.warnings, *warnings_of(machine)))))


def _whole(visible: str, recording: RecordingSource) -> str:
    """A device selection with whole UUIDs in place of their starts, so that they can be replaced like all others.

    A word that selects nothing stays one that selects nothing.
    """
    from advisor.probes.vendors.nvidia_smi import parse

    replies = recording.replies
    devices = replies.get("nvml", {}).get("devices")
    if not isinstance(devices, list):
        devices = (parse(replies.get("nvidia-smi", {}).get("stdout")) or {}).get("devices")
    found = [d for d in devices if isinstance(d, dict)] if isinstance(devices, list) else []
    for device in tuple(found):
        mig = device.get("mig")
        found += [s for s in mig.get("slices") or () if isinstance(s, dict)] if isinstance(mig, dict) else []
    uuids = [d["uuid"] for d in found if isinstance(d.get("uuid"), str)]
    # AMD's are in files: ``GPU-`` and the unique id.
    uuids += [f"GPU-{t.strip()}" for path, t in recording.texts.items() if t and path.endswith("/unique_id")]
    words = []
    for word in (part.strip() for part in visible.split(",")):
        near = [u for u in uuids if word and u.lower().startswith(word.lower())]
        known = not word or word.removeprefix("-").isdecimal()
        words.append(word if known else near[0] if len(near) == 1 else "none")
    return ",".join(words)


def load_machine(path: Path) -> Probed:
    """The machine of a bundle folder, of a document of ``advisor probe --json``, or of a bare ``machine`` object.

    Raises:
        AdvisorError: ``file-not-found`` or ``bad-machine-file``.
    """
    path = Path(path)
    if path.is_dir():
        source = BundleSource(path)
        try:
            return _measured(detect(source, environment=source.bundle.environment), source.bundle.measurements)
        except ValueError as e:
            raise bad_machine_file(path, e) from e
    if not path.is_file():
        raise AdvisorError(
            "file-not-found", f"There is no recorded machine at {clean(str(path))}.", hint="advisor probe --record DIR"
        )
    try:
        with path.open("rb") as f:
            raw = f.read(MAX_MACHINE_BYTES + 1)
        if len(raw) > MAX_MACHINE_BYTES:
            raise bad_machine_file(path, "it is too long")
        found: Any = msgspec.json.decode(raw)
    except (OSError, ValueError, RecursionError) as e:
        raise bad_machine_file(path, e) from e
    if isinstance(found, dict) and found.get("schema") == BUNDLE_SCHEMA:
        raise bad_machine_file(path, f"give the folder of the bundle, {clean(str(path.parent))}")
    if isinstance(found, dict) and isinstance(found.get("data"), dict):
        found = found["data"]
    if isinstance(found, dict) and "machine" in found:
        found = found["machine"]
    try:
        machine = from_json(Machine, found)
    except (msgspec.ValidationError, RecursionError) as e:
        raise bad_machine_file(path, e) from e
    return _sane(path, machine)


def _sane(path: Path, machine: Machine) -> Probed:
    notes = Notes(machine.provenance)
    try:
        machine = sane_machine(machine, notes)
    except ValueError as e:
        raise bad_machine_file(path, e) from e
    return Probed(machine=machine, warnings=warnings_of(machine))
