"""The HTML file of a run: one template, one style sheet, one script, and nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from pathlib import Path

import jinja2
from markupsafe import Markup

from suite.figures.style import color_of
from suite.metrics.naming import title
from suite.metrics.series import table_rows
from suite.reports.html.comparison_table import comparison_table
from suite.reports.html.prompt_browser import as_script, browser_data
from suite.reports.html.run_folder import RunFolder, read_run
from suite.runtime.errors import UserError

_HERE = Path(__file__).parent
_MEDIA = {".svg": "image/svg+xml", ".png": "image/png"}
_CAPTIONS = {
    "reward_vs_n": "Reward against n. Proxy reward, which selects, on the left; gold reward, which only evaluates, on the "
    "right. Every n comes from one pool, averaged over all n-subsets. Bands are 95% intervals over prompts.",
    "reward_vs_kl": "Reward against KL to the base policy. Best-of-n stands at its upper bound and at an estimate, a tuned "
    "policy at its measured KL over its training. The optimum is the most proxy reward that any policy can have at a KL.",
    "training": "What the training drew, update by update: proxy reward, KL to the base policy, entropy, and the objective "
    "(reward gained less price x KL) next to what the optimum gains.",
    "reward_distribution": "Distribution of both rewards over prompts and draws.",
    "cost": "Gold reward against the FLOPs of a request, and total FLOPs against the number of requests, training included.",
}


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run's folder, whole or not at all; the same folder gives the same bytes.

    Raises:
        UserError: the folder is not that of a whole run.
    """
    page = render(read_run(folder))
    path = folder / "report.html"
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(page)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def render(run: RunFolder) -> str:
    """The page as text. Everything that comes from the run is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    n = run.config["n"]
    methods, lines = comparison_table(run.rows, n)
    colors = [color_of(method) for method, _, _ in table_rows(run.rows, n)]
    style = (_HERE / "page.css").read_text(encoding="utf-8") + "".join(
        f".method-{place} {{ --method: {value}; }}\n" for place, value in enumerate(colors)
    )
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    data = browser_data(run.pools, n)
    return environment.get_template("page.html").render(
        name=run.name,
        heading=_heading(run),
        facts=_facts(run),
        methods=methods,
        lines=lines,
        findings=[(line.removeprefix("WARNING: "), line.startswith("WARNING: ")) for line in run.findings],
        figures=[(path.stem, _data_uri(path), _CAPTIONS.get(path.stem, path.stem.replace("_", " "))) for path in run.figures],
        browsed=data["methods"],
        num_prompts=len(data["prompts"]),
        n=n,
        config=run.config_text,
        manifest=run.manifest_text,
        # None of these three can hold "</": the first two are the suite's own files, the third escapes it.
        style=Markup(style),
        script=Markup(script),
        data=Markup(as_script(data)),
        policy=f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'",
    )


def _heading(run: RunFolder) -> str:
    tuned = [title(method) for method in run.pools if method != "base"]
    best = f"Best-of-{run.config['n']}"
    return f"{best} against {' and '.join(tuned)}" if tuned else best


def _facts(run: RunFolder) -> list[tuple[str, str]]:
    """Return what was run: a name and a value each."""
    config, manifest = run.config, run.manifest
    try:
        sampling, baseline, git = config["sampling"], config["baseline"], manifest["git"]
        parameters = manifest["models"]["policy"]["parameters"] / 1e6
        facts = [
            ("Policy", f"{config['policy']['name']}, {parameters:.1f} M parameters"),
            ("Rewards", f"{config['reward']['name']}: proxy selects and trains, gold only evaluates"),
            (
                "Prompts",
                f"{config['num_prompts']:,} of {config['task']['name']}, {config['num_candidates']:,} candidates each",
            ),
            ("Sampling", f"{sampling['max_new_tokens']} new tokens at temperature {sampling['temperature']:g}"),
        ]
        if baseline["name"] != "none":
            shown = {key: baseline[key] for key in ("updates", "batch_size", "kl_coef", "learning_rate") if key in baseline}
            settings = ", ".join(f"{key} {value}" for key, value in shown.items())
            facts.append(("Training", f"{title(baseline['name'])}: {settings}"))
        seconds = sum(manifest["seconds"].values())
        sha = (git["sha"] or "unknown")[:10] + (", with changes that are not committed" if git["dirty"] else "")
        return [
            *facts,
            ("Seed", str(config["seed"])),
            ("Machine", f"{manifest['device']}, {manifest['machine']['threads']} threads, {seconds:,.0f} s"),
            ("Code", sha),
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{run.name}: config.yaml or manifest.json is of another version of the suite ({type(error).__name__}: {error}); "
            "make the run again with python experiments/run.py"
        ) from None


def _data_uri(path: Path) -> str:
    return f"data:{_MEDIA[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _hash(text: str) -> str:
    """Return the hash by which a content security policy names an inline element."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
