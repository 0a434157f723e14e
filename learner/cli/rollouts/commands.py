"""`leeway rollouts` and `leeway replay`: shows and exports the groups that workers recorded, and submits them again."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from learner.cli.run.errors import one_line_errors
from learner.cli.run.run_command import DiskCommand, Run, RunCommand

rollouts = typer.Typer(
    help="Shows and exports the groups that workers recorded as text, and those that wait in the queue.",
    no_args_is_help=True,
)

_Run = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="A run's directory, such as runs/demo, or a directory of recorded groups."),
]
_Task = Annotated[str | None, typer.Option("--task", metavar="NAME", help="Only groups of this task.")]
_MinReward = Annotated[
    float | None, typer.Option("--min-reward", metavar="R", help="Only groups with a response of at least this reward.")
]
_Unscored = Annotated[
    bool, typer.Option("--unscored", help="Only groups with responses that nobody judged, or that were withdrawn.")
]

_LOOK_S = 0.5  # between two looks for new groups


@rollouts.command(cls=DiskCommand)
def tail(
    run: _Run,
    count: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the newest groups.")] = 10,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show new groups as they come, until Ctrl-C.")] = False,
    task: _Task = None,
    min_reward: _MinReward = None,
    unscored: _Unscored = False,
) -> None:
    """Shows the newest groups, one a line: rewards, lengths and the beginning of the best response."""
    from learner.cli.rollouts.group_text import line_of
    from learner.cli.rollouts.recorded_groups import GroupFilter, NewGroups, newest, rollouts_of

    console, wanted = Console(), GroupFilter(task, min_reward, unscored)
    with one_line_errors(), contextlib.suppress(KeyboardInterrupt):
        directory = rollouts_of(run)
        new = NewGroups(directory)  # before what is there is read, so that nothing comes between
        shown = newest(directory, count, wanted)
        for group in shown:
            console.print(line_of(group, console.width))
        seen = {group.group_id for group in shown}
        while follow:
            for group in new.read():
                if group.group_id not in seen and wanted.wants(group):
                    console.print(line_of(group, console.width))
            time.sleep(_LOOK_S)


@rollouts.command(cls=DiskCommand)
def show(
    run: _Run,
    name: Annotated[str | None, typer.Argument(metavar="[ID]", help="A group's id, or the end of it.")] = None,
    last: Annotated[bool, typer.Option("--last", help="The newest group.")] = False,
    response: Annotated[int | None, typer.Option("--response", metavar="N", min=1, help="Only this response.")] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Show token ids, coloured by version.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Show long prompts whole.")] = False,
) -> None:
    """Shows a group: its prompt, and each response with its turns, tool calls, reward parts, lengths and versions."""
    from learner.cli.rollouts.group_text import whole
    from learner.cli.rollouts.recorded_groups import GroupFilter, found, newest, rollouts_of

    if (name is None) == (not last):
        raise typer.BadParameter("give a group's id, or --last")
    console = Console()
    with one_line_errors():
        directory = rollouts_of(run)
        group = newest(directory, 1, GroupFilter())[0] if name is None else found(directory, name)
        if response is not None and response > len(group.responses):
            raise typer.BadParameter(f"--response {response}: the group has {len(group.responses)} responses")
        for part in whole(group, response, tokens, full):
            console.print(part)


@rollouts.command(cls=DiskCommand)
def export(
    run: _Run,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Ends with .jsonl (a group a line) or .parquet (a response a row).")
    ],
    task: _Task = None,
    min_reward: _MinReward = None,
    unscored: _Unscored = False,
) -> None:
    """Writes recorded groups to one file; `leeway replay` reads it if it is JSON lines."""
    from learner.cli.rollouts.export import export_groups
    from learner.cli.rollouts.recorded_groups import GroupFilter, rollouts_of
    from runtime.rollout_files import all_records

    wanted = GroupFilter(task, min_reward, unscored)
    with one_line_errors():
        groups = (group for group in all_records(rollouts_of(run)) if wanted.wants(group))
        count = export_groups(groups, file)
    typer.echo(f"{file}: {count:,} groups")


@rollouts.command(cls=RunCommand)
def waiting(
    run: Run,
    count: Annotated[int, typer.Option("--number", "-n", min=1, max=1000, help="How many of the newest.")] = 10,
    fleet: Annotated[str, typer.Option("--fleet", metavar="NAME", help="Only groups of this fleet.")] = "",
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            "--tokenizer",
            metavar="DIR",
            help="A model's directory, whose tokenizer makes text of token ids; default: of a run here its own model.",
        ),
    ] = None,
    all_of_it: Annotated[bool, typer.Option("--whole", help="Show each group whole.")] = False,
) -> None:
    """Shows the newest groups that wait in the queue of a run in progress, as text where a tokenizer is at hand."""
    from learner.cli.rollouts.group_text import line_of, whole
    from learner.cli.rollouts.waiting_groups import decoder, recorded
    from learner.cli.run.connection import at_gateway
    from learner.cli.run.run_file import RunFile

    console = Console()
    with one_line_errors():
        if tokenizer is None and run.path is not None:
            own = RunFile.read(run.directory().root).model_directory()
            tokenizer = own if (own / "tokenizer.json").is_file() else None
        decode = decoder(tokenizer)
        with at_gateway(run) as client:
            groups = [recorded(one, decode) for one in reversed(client.groups(fleet, count))]
    for group in groups:
        for part in whole(group, None, tokenizer is None, True) if all_of_it else [line_of(group, console.width)]:
            console.print(part)
    if not groups:
        typer.echo("no group waits in the queue")


def replay(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Recorded groups, JSON lines.", exists=True, dir_okay=False)
    ],
    gateway: Annotated[str, typer.Option("--gateway", metavar="HOST:PORT", help="The gateway of the run.")],
    token_file: Annotated[
        Path | None, typer.Option("--token-file", metavar="F", help="File with the token of the fleet that submits.")
    ] = None,
    new_ids: Annotated[
        bool, typer.Option("--new-ids", help="As new groups; default: under their old ids, each accepted once at most.")
    ] = False,
    tls: Annotated[
        Path | None,
        typer.Option(
            "--tls", metavar="F", help="TOML file with ca, certificate, key, server_name; default: plain text."
        ),
    ] = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", metavar="S", min=1.0, help="Seconds after which it gives up.")
    ] = 600.0,
) -> None:
    """Submits recorded groups to a gateway as a fleet, and counts the acks by reason. Exits with 1 unless all are in."""
    from learner.cli.rollouts.resubmission import submit_again

    options = {"gateway": gateway, "token-file": token_file, "tls": tls}
    raise typer.Exit(submit_again(file, options, new_ids, timeout_s))
