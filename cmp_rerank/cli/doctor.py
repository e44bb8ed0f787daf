"""`cmp-rerank doctor`: what is installed, what the machine has, and what would make it faster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cmp_rerank.cli import options

if TYPE_CHECKING:
    from cmp_rerank.diagnosis import Diagnosis


def doctor(
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Run attention and small products of matrices.")
    ] = True,
    json: options.Json = False,
) -> None:
    """Print versions, devices and attention kernels, and what would make this machine faster.

    Exit status 1 if something that is needed is missing. What it prints belongs into a bug report.

    \b
    Examples:
      cmp-rerank doctor
      cmp-rerank doctor --no-measure --json > machine.json
    """
    from cmp_rerank.diagnosis import diagnose

    found = diagnose(measure=measure)
    if json:
        import json as writer

        typer.echo(writer.dumps(found.to_dict(), indent=2))
    else:
        for line in _lines(found):
            typer.echo(line)
    if found.problems:
        raise typer.Exit(1)


def _lines(found: Diagnosis) -> list[str]:
    lines = [", ".join(f"{name} {number}" for name, number in found.versions.items())]
    lines += ["", "Packages"]
    lines += [
        f"  {package.name:24}{package.installed or '-':12}{package.wanted}{_mark(package.fits, package.extra)}"
        for package in found.packages
    ]
    for device, facts in found.devices.items():
        shown = [", ".join(value) if isinstance(value, list) else str(value) for value in facts.values()]
        lines += ["", f"Device {device}"]
        lines += [f"  {name.replace('_gib', ', GiB'):24}{value}" for name, value in zip(facts, shown, strict=True)]
        for name, kernels in found.attention.get(device, {}).items():
            lines.append(f"  {'attention, ' + name:24}{', '.join(kernels)}")
        for name, speed in found.speeds.get(device, {}).items():
            lines.append(f"  {'speed, ' + name:32}{speed:,.0f} GFLOPS")
    for title, entries in (("Problems", found.problems), ("Faster, or more", found.advice)):
        if entries:
            lines += ["", title, *(f"  - {entry}" for entry in entries)]
    return lines


def _mark(fits: bool, extra: str) -> str:
    return (f"  [{extra}]" if extra else "") + ("" if fits or extra else "  <- does not fit")
