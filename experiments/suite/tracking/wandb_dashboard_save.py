"""Saving the dashboard: made where there is none, updated where there is one, known by its name; refusals as one line."""

from __future__ import annotations

from typing import Any

import wandb
from wandb_workspaces._graphql import execute_graphql

from suite.runtime.errors import UserError
from suite.tracking.wandb_dashboard import NAME, report, workspace

#: W&B calls a report's views `runs`, and a workspace's `project-view`.
REPORT, WORKSPACE = "runs", "project-view"
_VIEWS = """
query DashboardViews($entityName: String, $name: String, $viewType: String) {
    project(name: $name, entityName: $entityName) {
        allViews(viewType: $viewType) { edges { node { id name displayName } } }
    }
}
"""


def parse_project(text: str) -> tuple[str, str]:
    """`entity/project` as two words.

    Raises:
        UserError: it is not of that form.
    """
    entity, _, project = text.partition("/")
    if not entity or not project or "/" in project:
        raise UserError(f"{text} is not allowed: must be entity/project, as in the address of the project's page")
    return entity, project


def save(entity: str, project: str) -> list[str]:
    """Make or update the workspace and the report of a project; a line for each: what was done, and its address.

    Raises:
        UserError: no key, no such project, no right to change it, or no answer.
    """
    if not wandb.login(prompt=False, verify=False):
        raise UserError("there is no W&B key: run `wandb login`, or set WANDB_API_KEY; --dry-run needs none")
    done = []
    try:
        own, page = workspace(entity, project), report(entity, project)
        found = _existing(entity, project, WORKSPACE)
        if found is not None:
            own._internal_name, own._internal_id = found["name"], found["id"]
        done.append(f"{'made' if found is None else 'updated'}  workspace  {own.save().url}")
        found = _existing(entity, project, REPORT)
        if found is not None:
            page.id = found["id"]
        done.append(f"{'made' if found is None else 'updated'}  report     {page.save().url}")
    except UserError:
        raise
    except Exception as error:  # wandb and wandb-workspaces raise many kinds, also bare ones
        reason = " ".join(str(error).split())
        raise UserError(f"W&B refuses to change {entity}/{project}: {reason}; is the key one of a member who may?") from None
    return done


def _existing(entity: str, project: str, kind: str) -> dict[str, Any] | None:
    """The view of this kind that has our name: its id and internal name."""
    answer = execute_graphql(wandb.Api(), _VIEWS, {"entityName": entity, "name": project, "viewType": kind})
    if answer.get("project") is None:
        raise UserError(
            f"there is no project {entity}/{project}, or this key may not see it; a run with tracking=wandb makes it"
        )
    nodes = [edge["node"] for edge in answer["project"]["allViews"]["edges"]]
    return next((node for node in nodes if node["displayName"] == NAME), None)
