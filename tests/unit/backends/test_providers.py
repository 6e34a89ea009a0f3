"""Which provider of llama.cpp is taken: its age, what it computes with, and what the plan asks of it."""

from __future__ import annotations

import msgspec
import pytest

from advisor.backends.llama import floors, providers
from advisor.backends.llama.binary import BinaryDevice
from advisor.backends.llama.providers import Offer, choose
from advisor.errors import AdvisorError
from advisor.facts.machine import Prebuilt, RuntimeFound
from tests.unit.backends.builds import NEW, OLD, PLAIN, VULKAN
from tests.unit.planner import planner_fakes as fakes

# -- floors ----------------------------------------------------------------------------------------------------------


def test_a_build_below_a_floor_is_refused_with_the_holes() -> None:
    error = floors.refusal(OLD)
    assert error is not None
    assert error.code == "runtime-vulnerable"
    assert error.exit_code == 7
    assert "b4719" in error.message
    assert "7824" in error.message
    assert error.data["floors"] == ["CVE-2026-33298", "CVE-2025-52566", "CVE-2025-49847"]


@pytest.mark.parametrize(
    ("number", "holes"), [(7824, 0), (7823, 1), (5721, 1), (5720, 2), (5662, 2), (5661, 3), (None, 0)]
)
def test_floors_are_exact(number: int | None, holes: int) -> None:
    assert len(floors.below(msgspec.structs.replace(OLD, number=number))) == holes


def test_builds_of_the_newer_scheme_are_above_all_floors() -> None:
    assert floors.refusal(NEW) is None
    assert floors.refusal(VULKAN) is None
    assert floors.floors("vllm") == ()


# -- the choice ------------------------------------------------------------------------------------------------------

WHEEL = Offer(provider="wheel", state="works", version="1")
PATH = Offer(provider="path", state="works", version="2", binary=NEW)
BUILT = Offer(provider="build", state="works", version="3", binary=NEW)
CAN_BUILD = Offer(provider="build", state="absent", version="3")
CUDA = Offer(
    provider="path",
    state="works",
    backends=("cpu", "cuda"),
    binary=msgspec.structs.replace(NEW, devices=(BinaryDevice(name="CUDA0", backend="cuda", description="d"),)),
)
ON_GPU = msgspec.structs.replace(PLAIN, gpu_layers=33)


def but(offer: Offer, **changes: object) -> Offer:
    return msgspec.structs.replace(offer, **changes)


@pytest.mark.parametrize(
    ("there", "kind", "taken"),
    [
        ((WHEEL,), "cpu", WHEEL),
        ((PATH, WHEEL), "cpu", PATH),
        ((PATH, BUILT, WHEEL), "cpu", BUILT),
        ((CAN_BUILD, WHEEL), "cpu", WHEEL),
        ((CAN_BUILD, but(WHEEL, state="absent")), "cpu", but(WHEEL, state="absent")),
        ((but(PATH, state="failed", why="SIGILL"), WHEEL), "cpu", WHEEL),
        ((but(PATH, state="refused", why="old"), WHEEL), "cpu", WHEEL),
        ((but(PATH, state="untested"), WHEEL), "cpu", but(PATH, state="untested")),
        ((CUDA, WHEEL), "nvidia", CUDA),
        ((CUDA, but(BUILT, backends=("cpu", "cuda")), WHEEL), "nvidia", CUDA),
        ((PATH, but(CAN_BUILD, backends=("cpu", "cuda")), WHEEL), "nvidia", but(CAN_BUILD, backends=("cpu", "cuda"))),
        ((but(BUILT, backends=("cpu", "vulkan")), WHEEL), "amd", but(BUILT, backends=("cpu", "vulkan"))),
        ((but(BUILT, backends=("cpu", "metal")), WHEEL), "apple", but(BUILT, backends=("cpu", "metal"))),
    ],
)
def test_the_provider_that_can_do_the_plan_is_taken(there: tuple[Offer, ...], kind: str, taken: Offer) -> None:
    settings = PLAIN if kind == "cpu" else ON_GPU
    assert choose(settings, kind, there) == taken
    assert choose(settings, kind, tuple(reversed(there))) == taken


def test_a_build_without_the_processors_features_is_no_gain() -> None:
    slow = but(PATH, binary=msgspec.structs.replace(NEW, features=("SSE3", "AVX")))
    assert choose(PLAIN, "cpu", (slow, WHEEL), isa=("sse3", "avx", "avx2", "fma")) == WHEEL
    assert choose(PLAIN, "cpu", (slow, WHEEL), isa=("sse3", "avx")) == slow
    assert choose(PLAIN, "cpu", (slow, WHEEL), wanted="path", isa=("avx2", "fma")) == slow


def test_a_build_that_lacks_an_option_of_the_plan_is_passed_over() -> None:
    old = but(PATH, binary=OLD)
    moe = msgspec.structs.replace(ON_GPU, cpu_moe_layers=4)
    assert choose(PLAIN, "cpu", (old, WHEEL)) == old
    with pytest.raises(AdvisorError) as e:
        choose(moe, "nvidia", (but(old, backends=("cpu", "cuda")), WHEEL))
    assert e.value.code == "runtime-unfit"
    assert "experts" in e.value.data["reasons"]["path"]
    assert "nvidia" in e.value.data["reasons"]["wheel"]


def test_a_named_provider_is_taken_or_says_why_not() -> None:
    assert choose(PLAIN, "cpu", (PATH, CAN_BUILD, WHEEL), wanted="wheel") == WHEEL
    assert choose(PLAIN, "cpu", (PATH, CAN_BUILD, WHEEL), wanted="build") == CAN_BUILD
    with pytest.raises(AdvisorError) as e:
        choose(ON_GPU, "nvidia", (CUDA, WHEEL), wanted="wheel")
    assert e.value.code == "runtime-unfit"
    assert "no backend for nvidia" in e.value.message
    with pytest.raises(AdvisorError) as e:
        choose(PLAIN, "cpu", (WHEEL,), wanted="path")
    assert e.value.context == ("path: none is found here",)
    with pytest.raises(AdvisorError) as e:
        choose(PLAIN, "cpu", (but(PATH, state="refused", why="old", binary=OLD), WHEEL), wanted="path")
    assert e.value.code == "runtime-vulnerable"


def test_what_can_be_had_makes_a_plan_ready() -> None:
    bare = fakes.rtx_4090()
    assert not providers.provided(bare, "nvidia")
    found = RuntimeFound(runtime="llama.cpp", provider="path", version="1", backends=("cpu", "cuda"))
    assert providers.provided(msgspec.structs.replace(bare, runtimes=(found,)), "nvidia")
    assert providers.provided(msgspec.structs.replace(bare, buildable=("cpu", "cuda")), "nvidia")
    assert not providers.provided(msgspec.structs.replace(bare, buildable=("cpu", "cuda")), "amd")


# -- a wheel that drives devices -------------------------------------------------------------------------------------

VULKAN_WHEEL = Offer(
    provider="wheel", state="absent", version="v", backends=("cpu", "vulkan"), vendors=("amd",), env="llama.cpp-vulkan"
)
IN_USE = but(VULKAN_WHEEL, state="works", binary=VULKAN)
ON_PATH = but(PATH, backends=("cpu", "vulkan"))


@pytest.mark.parametrize(
    ("there", "kind", "taken"),
    [
        ((WHEEL, VULKAN_WHEEL), "cpu", WHEEL),
        ((but(WHEEL, state="absent"), IN_USE), "cpu", but(WHEEL, state="absent")),
        ((WHEEL, VULKAN_WHEEL), "amd", VULKAN_WHEEL),
        ((WHEEL, IN_USE, ON_PATH), "amd", ON_PATH),
        ((WHEEL, IN_USE, but(BUILT, backends=("cpu", "rocm"))), "amd", but(BUILT, backends=("cpu", "rocm"))),
        ((WHEEL, IN_USE, but(CAN_BUILD, backends=("cpu", "rocm"))), "amd", but(CAN_BUILD, backends=("cpu", "rocm"))),
        ((WHEEL, VULKAN_WHEEL, but(CAN_BUILD, backends=("cpu", "vulkan"))), "amd", VULKAN_WHEEL),
    ],
)
def test_a_wheel_with_vulkan_serves_where_nothing_better_does(
    there: tuple[Offer, ...], kind: str, taken: Offer
) -> None:
    settings = PLAIN if kind == "cpu" else ON_GPU
    assert choose(settings, kind, there) == taken
    assert choose(settings, kind, tuple(reversed(there))) == taken


def test_of_two_wheels_the_wanted_one_is_the_one_that_does_for_the_plan() -> None:
    both = (WHEEL, IN_USE)
    assert choose(PLAIN, "cpu", both, wanted="wheel") == WHEEL
    assert choose(ON_GPU, "amd", both, wanted="wheel") == IN_USE
    with pytest.raises(AdvisorError) as e:
        choose(ON_GPU, "nvidia", both, wanted="wheel")
    assert e.value.code == "runtime-unfit"
    assert "it sees no nvidia device here" in e.value.context[1]
    assert "no backend for nvidia" in e.value.data["reasons"]["wheel"]
    assert "sees no nvidia" in e.value.data["reasons"]["wheel"]


def test_layers_stay_on_the_host_only_where_the_wheel_can_compute_them() -> None:
    whole_only = but(IN_USE, host_layers="all layers must be on devices")
    assert choose(ON_GPU, "amd", (whole_only,)) == whole_only
    assert choose(ON_GPU, "amd", (IN_USE,), split=True) == IN_USE
    experts = msgspec.structs.replace(ON_GPU, cpu_moe_layers=2)
    for settings, kind, split in ((ON_GPU, "amd", True), (experts, "amd", False), (PLAIN, "cpu", False)):
        with pytest.raises(AdvisorError, match="all layers must be on devices"):
            choose(settings, kind, (whole_only,), split=split)


def test_what_a_wheel_drives_is_promised_by_maker() -> None:
    machine = msgspec.structs.replace(
        fakes.rtx_4090(),
        runtimes=(RuntimeFound(runtime="llama.cpp", provider="wheel", version="v", backends=("cpu", "vulkan")),),
    )
    assert providers.provided(machine, "cpu")
    assert not providers.provided(machine, "nvidia"), "its Vulkan may show another device than that"
    amd = msgspec.structs.replace(machine, prebuilt=Prebuilt(vendors=("amd",), layers_on_host=True))
    assert not providers.provided(amd, "nvidia")
    whole = msgspec.structs.replace(machine, prebuilt=Prebuilt(vendors=("nvidia",), layers_on_host=False))
    assert providers.provided(whole, "nvidia")
    assert not providers.provided(whole, "nvidia", split=True)
    able = msgspec.structs.replace(machine, prebuilt=Prebuilt(vendors=("nvidia",), layers_on_host=True))
    assert providers.provided(able, "nvidia", split=True)
