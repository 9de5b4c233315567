"""`finetune eval`: whether it was learned, and what was forgotten."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetune.cli.flags import SettingsCommand, flag_settings, set_flag, setting_flag
from finetune.cli.imports import large_imports
from finetune.cli.style import json_flag
from finetune.cli.terminal import progress, quiet_loading, table, tell, tell_answer, tell_end
from finetune.config import ModelSection
from finetune.config.evaluation import EvaluationSection
from finetune.errors import ConfigError
from finetune.files import check_writable, whole_file
from finetune.recipes.load import EVALUATION_KEYS, build_evaluation
from finetune.recipes.reporter import SILENT, Reporter

if TYPE_CHECKING:
    from finetune.evaluation.measure import Report

FLAGS = {
    "--class-prompt": "evaluation.class_prompt",
    "--weight": "evaluation.weight",
    "--model": "model.name",
    "--vae": "model.vae",
}
JSON, SHEET = "eval.json", "eval.png"


def _eval(
    run: Path,
    instance_dir: Path | None,
    as_json: bool,
    output: Path | None,
    model: str | None,
    vae: str | None,
    class_prompt: str | None,
    weight: str | None,
    changes: tuple[str, ...],
) -> None:
    flags = {"model": model, "vae": vae, "class_prompt": class_prompt, "weight": weight, "changes": changes}
    given, settings = build_evaluation(flag_settings(flags, FLAGS))
    if output is not None:
        _check_new(output)
    with large_imports():
        from finetune.evaluation.words import verdict
        from finetune.kernels import keep_freed_memory
        from finetune.recipes.evaluated import evaluated

        quiet_loading()
    keep_freed_memory()
    report = SILENT if as_json else Reporter(tell, progress)
    with evaluated(run, given, settings, instance_dir, report) as subject:
        found = subject.measure(report)
    values = {"result": str(run), **found.plain(), "verdict": verdict(found)}
    if as_json:
        print(json.dumps(values), flush=True)
    else:
        for line in _lines(found):
            tell_answer(line)
        tell_answer(values["verdict"][:1].upper() + values["verdict"][1:])
    if output is not None:
        _write(found, values, output)
        if not as_json:
            tell_end(f"Wrote {output / JSON} and {output / SHEET}.", [output / JSON, output / SHEET])


def _check_new(output: Path) -> None:
    check_writable(output)
    if (output / JSON).exists() or (output / SHEET).exists():
        raise ConfigError(
            "There is an evaluation in this folder already.", where=str(output), fix="Give another folder."
        )


def _write(report: Report, values: dict[str, Any], output: Path) -> None:
    from finetune.evaluation.sheet import sheet

    output.mkdir(parents=True, exist_ok=True)
    with whole_file(output / SHEET) as aside:
        sheet(report).save(aside, "PNG")
    with whole_file(output / JSON) as aside:
        aside.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _lines(report: Report) -> Iterator[str]:
    """The figures for people."""
    plan, base = report.baseline.plan, report.baseline
    rows: list[tuple[str, str, str]] = [("", "trained", "base model")]
    like = f"{float(report.likeness.mean()):.2f}"
    rows.append((f'"{plan.prompt} …" is like the training pictures', like, "0"))
    for group, share in report.shown.items():
        rows.append((f"  and the {group} that is asked for", f"{share:.0%}", f"{base.shown[group]:.0%}"))
    rows.append((f'"{plan.class_prompt} …" shows the subject', f"{report.leak_share:.0%}", "–"))
    rows.append(("  its predictions have changed by", f"{report.class_drift.changed:.0%}", "–"))
    rows.append(("those of unrelated prompts by", f"{report.other_drift.changed:.0%}", "–"))
    rows.append(("copies of training pictures", f"{report.copied_share:.0%}", "–"))
    for name, compared in (("training", report.on_training), ("held-out", report.on_held)):
        if compared is not None:
            means = (sum(losses) / len(losses) for losses in (compared.trained, compared.base))
            rows.append((f"loss on {name} pictures", *(f"{mean:.3f}" for mean in means)))  # type: ignore[arg-type]
    yield from table(rows, right=(1, 2))


_FIELDS = EvaluationSection.model_fields
_OTHERS = ", ".join(key for key in EVALUATION_KEYS if key not in FLAGS.values())

eval_command = SettingsCommand(
    "eval",
    callback=_eval,
    help="Measure whether a subject was learned, and what was forgotten: with the base model alone, so that "
    "nothing is downloaded. RUN is a run folder, one of its checkpoints, or a file.",
    params=[
        click.Argument(["run"], type=click.Path(path_type=Path), metavar="RUN"),
        click.Option(
            ["--instance-dir"],
            type=click.Path(path_type=Path),
            metavar="FOLDER",
            help="The pictures it was taught; those of the run if not given.",
        ),
        setting_flag("--class-prompt", _FIELDS["class_prompt"]),
        setting_flag("--weight", _FIELDS["weight"]),
        json_flag("Write all figures as JSON."),
        click.Option(
            ["--output", "-o"],
            type=click.Path(path_type=Path, file_okay=False),
            metavar="FOLDER",
            help="Also write the figures, and a sheet of pictures beside the nearest training pictures.",
        ),
        setting_flag(
            "--model", ModelSection.model_fields["name"], default="the model that it was trained from"
        ),
        setting_flag("--vae", ModelSection.model_fields["vae"]),
        set_flag(f"Change another setting ({_OTHERS})"),
    ],
    keys=EVALUATION_KEYS,
)
