"""``holdfast ci init``: a workflow that checks data, tests, trains on a sample and runs the gate on every change."""

from __future__ import annotations

from pathlib import Path

import click

from holdfast.cli.group import Group
from holdfast.cli.output import say

STEPS = """holdfast data check
python -m pytest -q
holdfast train {model} --sample {sample:g} --json > train.json
holdfast check {model}@latest --json --junit gate.xml --markdown gate.md --html card.html > gate.json"""

GITHUB = """# Written by `holdfast ci init`; edit as you like.
name: model
on: [push, pull_request]
permissions:
  contents: read
  pull-requests: write
jobs:
  gate:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with: {{python-version: "3.11"}}
      - run: python -m pip install "holdfast[all]" pytest
      - run: holdfast data pull
{runs}
      - name: The gate's table on the run's page
        if: always() && hashFiles('gate.md') != ''
        run: cat gate.md >> "$GITHUB_STEP_SUMMARY"
      - name: The gate's table on the pull request
        if: always() && github.event_name == 'pull_request' && hashFiles('gate.md') != ''
        continue-on-error: true # a fork's token may not write
        env: {{GH_TOKEN: "${{{{ github.token }}}}"}}
        run: gh pr comment "${{{{ github.event.number }}}}" --body-file gate.md
      - if: always()
        uses: actions/upload-artifact@v4
        with: {{name: gate, path: "gate.*\\ncard.html\\ntrain.json", if-no-files-found: ignore}}
"""

GITLAB = """# Written by `holdfast ci init`; edit as you like.
# The table becomes a note on the merge request where the variable HOLDFAST_GITLAB_TOKEN holds a token of scope `api`.
gate:
  image: python:3.11
  rules:
    - if: $CI_PIPELINE_SOURCE == "merge_request_event"
    - if: $CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH
  script:
    - python -m pip install "holdfast[all]" pytest
    - holdfast data pull
{runs}
  after_script:
    - >-
      if [ -s gate.md ] && [ -n "$CI_MERGE_REQUEST_IID" ] && [ -n "$HOLDFAST_GITLAB_TOKEN" ]; then
      curl --fail --silent --show-error --header "PRIVATE-TOKEN: $HOLDFAST_GITLAB_TOKEN" --data-urlencode body@gate.md
      "$CI_API_V4_URL/projects/$CI_PROJECT_ID/merge_requests/$CI_MERGE_REQUEST_IID/notes" > note.json; fi
  artifacts:
    when: always
    paths: [gate.json, gate.md, card.html, train.json]
    reports:
      junit: gate.xml
"""


@click.group(cls=Group)
def ci() -> None:
    """Workflows for GitHub Actions and GitLab."""


@ci.command()
@click.argument("kind", type=click.Choice(["github", "gitlab"]), default="github")
@click.option("--model", help="Which model to train and check.  [default: the project's only one]")
@click.option(
    "--sample",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.1,
    show_default=True,
    help="Share of the labelled rows to train on.",
)
@click.option("--force", is_flag=True, help="Replace a workflow that is there.")
def init(kind: str, model: str | None, sample: float, force: bool) -> None:
    """Write the workflow of KIND: data checks, tests, training, the gate, and the gate's table on the change."""
    from holdfast.core import files
    from holdfast.core.errors import BadInput, Conflict, NotFound
    from holdfast.workspace import Workspace

    with Workspace.open() as ws:
        models = sorted(ws.project().models)
        if model is None:
            if len(models) != 1:
                raise BadInput(
                    f"the project has {len(models)} models", hint=f"choose one with --model: {', '.join(models)}"
                )
            model = models[0]
        elif model not in models:
            raise NotFound.among("model", model, models)
        lines = STEPS.format(model=model, sample=sample).splitlines()
        if kind == "github":
            path, text = (
                ".github/workflows/model.yml",
                GITHUB.format(runs="\n".join(f"      - run: {line}" for line in lines)),
            )
        else:
            path, text = ".gitlab-ci.yml", GITLAB.format(runs="\n".join(f"    - {line}" for line in lines))
        target = ws.root / path
        if target.exists() and not force:
            raise Conflict(f"{path} is there already", hint="--force replaces it")
        target.parent.mkdir(parents=True, exist_ok=True)
        files.write(target, text.encode())
        say(f"wrote {path}")


@ci.command()
@click.argument("verdict", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def table(verdict: Path) -> None:
    """The verdict in file VERDICT (`holdfast check --json`) as a Markdown table."""
    import msgspec

    from holdfast.core.errors import BadInput
    from holdfast.core.records import Verdict
    from holdfast.validation import render

    try:
        found = msgspec.json.decode(verdict.read_bytes(), type=Verdict)
    except msgspec.MsgspecError as error:
        raise BadInput(
            f"{verdict} is not a verdict: {error}", hint="write it with `holdfast check NAME@VERSION --json`"
        ) from None
    click.echo(render.markdown(found), nl=False)
