"""What is installed, what the machine has, and what would make it faster: measured where a measurement is quick.

Used by ``cmp-rerank doctor``. Nothing here changes a setting for good.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from cmp_rerank.version import package_version

#: What each extra of the package is for.
EXTRAS = {
    "retrieval": "BM25, dense indexes, ir_datasets",
    "report": "the report page and plots",
    "demo": "`cmp-rerank demo`, with a pretrained encoder",
    "serve": "`cmp-rerank serve`",
}
#: A speed-up below this share is taken for noise.
NOTABLE = 1.2


@dataclass(frozen=True)
class Package:
    """A package that this one needs.

    Attributes:
        name: Its name.
        installed: Its version; None: it is not there.
        wanted: The versions that are supported, such as ">=2.4"; empty: any.
        extra: The extra that asks for it; empty: it is always needed.
    """

    name: str
    installed: str | None
    wanted: str
    extra: str = ""

    @property
    def fits(self) -> bool:
        """Whether it is there, in a version that is supported."""
        from packaging.specifiers import SpecifierSet

        return self.installed is not None and SpecifierSet(self.wanted).contains(self.installed, prereleases=True)


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        versions: This package and Python.
        packages: What is needed, and what is there.
        devices: Each device by name, with its properties.
        attention: For each device and type of numbers, the kernels of scaled dot-product attention that ran.
        speeds: For each device, billions of floating-point operations a second of a product of matrices, by setting.
        problems: What does not work, with what to do about it.
        advice: What would make this machine faster, with what was measured.
    """

    versions: dict[str, str]
    packages: list[Package]
    devices: dict[str, dict[str, Any]]
    attention: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    speeds: dict[str, dict[str, float]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """All of it, for a JSON file."""
        return asdict(self)


def diagnose(*, measure: bool = True) -> Diagnosis:
    """Look at the installation and the machine.

    Args:
        measure: Also run small products of matrices and attention on each device, for about five seconds.

    Returns:
        What was found.

    Example:
        >>> found = diagnose(measure=False)
        >>> found.versions["python"].split(".")[0]
        '3'
        >>> "cpu" in found.devices
        True
    """
    packages = required_packages()
    devices = find_devices()
    found = Diagnosis({"cmp-rerank": package_version(), "python": platform.python_version()}, packages, devices)
    found.problems.extend(_package_problems(packages))
    found.problems.extend(_cache_problems())
    found.advice.extend(_missing_extras(packages))
    found.advice.extend(_thread_advice(devices["cpu"]))
    if measure:
        for device in devices:
            found.attention[device] = attention_kernels(device)
            found.speeds[device] = speeds(device)
            found.advice.extend(speed_advice(device, found.speeds[device]))
    return found


# What is installed --------------------------------------------------------------------------------------


def required_packages() -> list[Package]:
    """The packages that this one asks for, where it is installed, those of extras after the others."""
    from packaging.requirements import Requirement

    try:
        lines = requires("cmp-rerank") or []
    except PackageNotFoundError:
        return []
    found: dict[str, Package] = {}
    for requirement in map(Requirement, lines):
        extra = next((name for name in EXTRAS if f'"{name}"' in str(requirement.marker)), "")
        if requirement.name == "cmp-rerank" or (requirement.marker and not extra):
            continue  # an extra made of others, or one for developers
        known = found.get(requirement.name)
        if known is None or (known.extra and _rank(extra) < _rank(known.extra)):
            installed = _installed(requirement.name)
            found[requirement.name] = Package(requirement.name, installed, str(requirement.specifier), extra)
    return sorted(found.values(), key=lambda package: (_rank(package.extra), package.name))


def _rank(extra: str) -> int:
    """Packages of several extras stand with the first of them; those that are always needed come first of all."""
    return ["", *EXTRAS].index(extra)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _package_problems(packages: list[Package]) -> Iterator[str]:
    for package in packages:
        if package.fits or (package.extra and package.installed is None):
            continue
        state = f"version {package.installed} is installed" if package.installed else "it is not installed"
        needed = f"{package.name}{package.wanted}"
        yield f"{needed} is needed, but {state}; run: pip install '{needed}'"


def _missing_extras(packages: list[Package]) -> Iterator[str]:
    for extra, purpose in EXTRAS.items():
        missing = [package.name for package in packages if package.extra == extra and package.installed is None]
        if missing:
            names = ", ".join(missing)
            yield f"{names}: not installed, needed for {purpose}; run: pip install 'cmp-rerank[{extra}]'"


def _cache_problems() -> Iterator[str]:
    from cmp_rerank.collections.cache import cache_folder

    folder = Path(cache_folder())
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not os.access(place, os.W_OK):
        yield f"{folder}: the cache cannot be written; set XDG_CACHE_HOME to a folder that can"


# The machine --------------------------------------------------------------------------------------------


def find_devices() -> dict[str, dict[str, Any]]:
    """The processor, and the accelerators that torch sees, by their names in torch."""
    import torch

    devices: dict[str, dict[str, Any]] = {"cpu": _processor()}
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        devices[f"cuda:{number}"] = {
            "name": facts.name,
            "memory_gib": round(facts.total_memory / 2**30, 1),
            "capability": f"{facts.major}.{facts.minor}",
        }
    if torch.backends.mps.is_available():
        devices["mps"] = {"name": "Apple GPU"}
    return devices


def _processor() -> dict[str, Any]:
    import torch

    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [
            line.split(":", 1)[1].strip() for line in information.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    supports = {
        "avx512": "_is_avx512_supported",
        "vnni": "_is_vnni_supported",
        "bf16": "_is_avx512_bf16_supported",
        "amx": "_is_amx_tile_supported",
    }
    known = {name: getattr(torch.cpu, function, None) for name, function in supports.items()}
    return {
        "name": model,
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "instructions": [name for name, function in known.items() if function is not None and function()],
        "memory_gib": _memory_gib(),
    }


def usable_cores() -> int:
    """How many cores this process may use: those it may run on, or the quota of its container, whichever is less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        share, period = quota.read_text().split()
        if share != "max":
            cores = min(cores, max(1, round(int(share) / int(period))))
    return cores


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _thread_advice(cpu: Mapping[str, Any]) -> Iterator[str]:
    cores, threads = cpu["cores"], cpu["threads"]
    if threads > cores:
        yield f"torch uses {threads} threads on {cores} cores, which wait for each other; set OMP_NUM_THREADS={cores}"
    # A hyper-thread is no core: torch takes half of them by itself.
    elif threads * 2 < cores:
        yield f"torch uses {threads} of {cores} cores; unset OMP_NUM_THREADS, or set OMP_NUM_THREADS={cores}"


# What was measured --------------------------------------------------------------------------------------


def _types(device: str) -> dict[str, Any]:
    import torch

    types = {"float32": torch.float32, "bf16": torch.bfloat16}
    return types if device == "cpu" else types | {"fp16": torch.float16}


def attention_kernels(device: str) -> dict[str, list[str]]:
    """The kernels of scaled dot-product attention that run on a device, by the type of numbers.

    Each is asked for by itself on a small input with a mask, as batches of texts of several lengths need one, and
    without one, as single texts have it; what runs without a mask only is marked so.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    kernels = {
        "flash": SDPBackend.FLASH_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "cudnn": getattr(SDPBackend, "CUDNN_ATTENTION", None),
        "math": SDPBackend.MATH,
    }
    found: dict[str, list[str]] = {}
    for name, dtype in _types(device).items():
        states = torch.zeros(2, 4, 16, 64, device=device, dtype=dtype)
        mask = torch.ones(2, 1, 1, 16, device=device, dtype=torch.bool)

        def runs(kernel: Any, mask: torch.Tensor | None, states: torch.Tensor = states) -> bool:
            import warnings

            try:
                with warnings.catch_warnings(), sdpa_kernel(kernel), torch.inference_mode():
                    warnings.simplefilter("ignore")  # torch explains why a kernel does not run
                    scaled_dot_product_attention(states, states, states, attn_mask=mask)
            except RuntimeError:
                return False
            return True

        found[name] = [
            kernel if runs(backend, mask) else f"{kernel} (without a mask)"
            for kernel, backend in kernels.items()
            if backend is not None and runs(backend, None)
        ]
    return found


def speeds(device: str) -> dict[str, float]:
    """Billions of operations a second of a layer of a BERT-base-sized model, by the type of numbers.

    A CPU is also tried with one thread. The fastest of several rounds counts: other work on the machine can only slow
    one down.
    """
    import torch

    found: dict[str, float] = {}
    before = torch.get_num_threads()
    try:
        for name, dtype in _types(device).items():
            found[name] = _speed(device, dtype)
        if device == "cpu" and before > 1:
            torch.set_num_threads(1)
            found["float32, one thread"] = _speed(device, torch.float32)
    finally:
        torch.set_num_threads(before)
    return found


def _speed(device: str, dtype: Any) -> float:
    import torch

    rows, size = 512 if device == "cpu" else 16384, 768
    left = torch.randn(rows, size, device=device, dtype=dtype)
    right = torch.randn(size, 4 * size, device=device, dtype=dtype)
    best = float("inf")
    end = time.perf_counter() + 0.4
    while time.perf_counter() < end or best == float("inf"):
        begin = time.perf_counter()
        with torch.inference_mode():
            # The number waits for the device to finish.
            (left @ right)[0, 0].item()
        best = min(best, time.perf_counter() - begin)
    return round(2 * rows * size * 4 * size / best / 1e9, 1)


def speed_advice(device: str, speeds: Mapping[str, float]) -> Iterator[str]:
    """What the measured speeds say.

    Example:
        >>> list(speed_advice("cpu", {"float32": 100.0, "bf16": 300.0, "float32, one thread": 60.0}))
        ['cpu: products of matrices are 3.0x as fast in bf16; try --precision bf16, or bf16=True in training']
        >>> list(speed_advice("cpu", {"float32": 61.0, "bf16": 20.0, "float32, one thread": 60.0}))
        ['cpu: all threads together are 1.0x as fast as one; the cores may be shared, or busy']
    """
    gain = speeds["bf16"] / speeds["float32"]
    if gain >= NOTABLE:
        yield (
            f"{device}: products of matrices are {gain:.1f}x as fast in bf16; try --precision bf16, or bf16=True in "
            "training"
        )
    if "float32, one thread" in speeds and speeds["float32"] < NOTABLE * speeds["float32, one thread"]:
        ratio = speeds["float32"] / speeds["float32, one thread"]
        yield f"{device}: all threads together are {ratio:.1f}x as fast as one; the cores may be shared, or busy"
