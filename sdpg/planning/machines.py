"""Names the machine that is planned for: given by options, detected, or the two that are usual."""

from dataclasses import dataclass, replace
import math

from sdpg.errors import UserError
from sdpg.planning.work import CARDS, Card

DEFAULT_CARD = "h100"
RESERVED = 0.06
"""Assumption: the share of a GPU's memory that goes to its context, to NCCL, and to what lies between tensors."""

MACHINE_GPUS = 8
"""Assumption: GPUs of one machine; more GPUs are on several machines, with a network between them."""


@dataclass(frozen=True)
class Machine:
    """A number of equal GPUs, and the source of what is known about them."""

    gpus: int
    card: Card
    source: str

    @property
    def usable(self) -> float:
        """Returns the bytes of one GPU that tensors can have."""
        return self.card.memory * (1 - RESERVED)

    def link(self, gpus: int) -> float:
        """Returns the bytes per second that each of ``gpus`` receives over the slowest link between them."""
        return self.card.link if gpus <= MACHINE_GPUS else min(self.card.link, self.card.network)

    @property
    def label(self) -> str:
        """Returns the machine in a few words."""
        return f"{self.gpus} × {self.card.name}"


def positive(option: str, text: str | None, unit: str) -> float | None:
    """Returns a number above 0 from the command line, or None where the option was not given.

    Raises:
        UserError: if it is no such number; the message names the option and what it takes.
    """
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"{option} {text}: give a number of {unit} above 0, without a unit, such as {option} 80")
    return value


def machines(
    gpus: str | None = None,
    memory: str | None = None,
    card: str | None = None,
    peak: str | None = None,
    bandwidth: str | None = None,
    link: str | None = None,
    processes: int = 1,
    assumed: str = DEFAULT_CARD,
) -> list[Machine]:
    """Returns the machines to plan for.

    These are the options' machine, else the detected one, else one GPU and several GPUs of the ``assumed`` card: as
    many as a run has ``processes``, or eight.

    Raises:
        UserError: if an option makes no sense.
    """
    count = positive("--gpus", gpus, "GPUs")
    if count is not None and count != int(count):
        raise UserError(f"--gpus {gpus}: give a whole number of GPUs")
    gib = positive("--memory", memory, "GiB")
    if gib is not None and not 1 <= gib <= 2048:
        raise UserError(f"--memory {memory}: no GPU has that; give GiB of one GPU, such as --memory 80")
    teraflops = positive("--peak-flops", peak, "TFLOP/s (dense bfloat16)")
    terabytes = positive("--bandwidth", bandwidth, "TB/s")
    gigabytes = positive("--link-bandwidth", link, "GB/s that a GPU receives from others")
    if card is not None and card not in CARDS:
        raise UserError(f"--card {card} is not known; there are: {', '.join(CARDS)}. Others by --peak-flops and "
                        "--bandwidth")  # fmt: skip
    detected = [] if card or count or gib else _detected()
    chosen = detected or [
        Machine(n, CARDS[card or assumed], "given" if count or gib or card else "no GPU here: assumed")
        for n in ([int(count)] if count else [1, processes if processes > 1 else 8])
    ]
    return [replace(machine, card=_changed(machine.card, gib, teraflops, terabytes, gigabytes)) for machine in chosen]


def _changed(
    card: Card, gib: float | None, teraflops: float | None, terabytes: float | None, gigabytes: float | None
) -> Card:
    changes: dict[str, float] = {}
    if gib:
        changes["memory"] = gib * 2**30
    if teraflops:
        changes["peak_flops"] = teraflops * 1e12
    if terabytes:
        changes["bandwidth"] = terabytes * 1e12
    if gigabytes:
        changes["link"] = changes["network"] = gigabytes * 1e9
    if not changes:
        return card
    words = [
        f"{value:g} {unit}"
        for value, unit in ((gib, "GiB"), (teraflops, "TFLOP/s"), (terabytes, "TB/s"), (gigabytes, "GB/s of links"))
        if value
    ]
    return replace(card, name=f"{card.name} with {', '.join(words)}", **changes)


def _detected() -> list[Machine]:
    """Returns the GPUs of this computer; an unknown card gets the default card's speed, and the source says so."""
    import torch

    if not torch.cuda.is_available():
        return []
    name, memory = torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory
    known = next((card for key, card in CARDS.items() if key in name.lower().replace(" ", "")), None)
    speed = known or CARDS[DEFAULT_CARD]
    label = name if known else f"{name} (speed unknown: that of {speed.name} is assumed)"
    return [Machine(torch.cuda.device_count(), replace(speed, name=label, memory=float(memory)), "detected")]
