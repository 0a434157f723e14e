"""The commands `leeway config` and `leeway completion`, and the option `leeway --version`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from learner.cli.run.errors import one_line_errors
from learner.cli.run.run_command import refuse_gateway, speaks_to_gateways
from learner.cli.run.run_directory import RunError


class Shell(StrEnum):
    """The shells for which there is a completion script."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


# The command answers when _LEEWAY_COMPLETE is set, with typer's names for the words that were typed.
_SCRIPTS = {
    Shell.BASH: """\
_leeway_complete() {
    mapfile -t COMPREPLY < <(
        COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD="$COMP_CWORD" _LEEWAY_COMPLETE=complete_bash "$1" 2>/dev/null
    )
}
complete -o default -F _leeway_complete leeway
""",
    Shell.ZSH: """\
#compdef leeway
_leeway_complete() {
    eval "$(_TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _LEEWAY_COMPLETE=complete_zsh leeway 2>/dev/null)"
}
compdef _leeway_complete leeway
""",
    Shell.FISH: """\
function _leeway_complete
    set -lx _TYPER_COMPLETE_ARGS (commandline -cp)
    set -lx _TYPER_COMPLETE_FISH_ACTION $argv[1]
    set -lx _LEEWAY_COMPLETE complete_fish
    leeway 2>/dev/null
end
complete --command leeway --no-files --arguments "(_leeway_complete get-args)" --condition "_leeway_complete is-args"
""",
}


def _print_version(asked: bool) -> None:
    if asked:
        from learner.cli.settings.versions import version_text

        typer.echo(version_text())
        raise typer.Exit


_ELSEWHERE = "For a run elsewhere"


def _file(option: str, variable: str, text: str) -> Any:
    return typer.Option(option, metavar="F", envvar=variable, help=text, rich_help_panel=_ELSEWHERE)


def options(  # noqa: PLR0913 (each is an option of the command line)
    ctx: typer.Context,
    gateway: Annotated[
        str | None,
        typer.Option(
            "--gateway",
            metavar="HOST:PORT",
            envvar="LEEWAY_GATEWAY",
            help="A gateway of the run; commands are then given without RUN.",
            rich_help_panel=_ELSEWHERE,
        ),
    ] = None,
    token_file: Annotated[
        Path | None, _file("--token-file", "LEEWAY_TOKEN_FILE", "File with the token of an identity of role operate.")
    ] = None,
    ca: Annotated[
        Path | None, _file("--ca", "LEEWAY_CA", "PEM of the gateway's authority; default: the system's.")
    ] = None,
    certificate: Annotated[
        Path | None, _file("--certificate", "LEEWAY_CERTIFICATE", "PEM of a certificate of yours, for mTLS.")
    ] = None,
    key: Annotated[Path | None, _file("--key", "LEEWAY_KEY", "PEM of its private key.")] = None,
    server_name: Annotated[
        str | None,
        typer.Option(
            "--server-name",
            metavar="NAME",
            envvar="LEEWAY_SERVER_NAME",
            help="Name in the gateway's certificate, where it is not HOST, as behind a forwarded port.",
            rich_help_panel=_ELSEWHERE,
        ),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure", help="Allow plain text to another machine, token included.", rich_help_panel=_ELSEWHERE
        ),
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the versions and exit."),
    ] = False,
) -> None:
    """Asynchronous post-training of language models: many rollout fleets, one learner."""
    called: Any = ctx.command
    chosen = getattr(called, "commands", {}).get(ctx.invoked_subcommand)
    if chosen is not None and not speaks_to_gateways(chosen):
        refuse_gateway(ctx, f"leeway {ctx.invoked_subcommand}")


def config(
    file: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="A run file (TOML), or a run's directory.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Changes a setting; may be repeated.")
    ] = None,
    defaults: Annotated[
        bool, typer.Option("--defaults", help="Print every key with its default and meaning instead.")
    ] = False,
    presets: Annotated[
        bool, typer.Option("--presets", help="Print the presets (learner.objective.preset) and what each sets instead.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Prints the values that a run would use, and where each comes from: default, preset, file, --set, or `leeway up`."""
    from learner.cli.settings.preset_list import presets_text
    from learner.cli.settings.show import config_text

    with one_line_errors():
        if presets and file is None and not defaults:
            typer.echo(presets_text(as_json))
        elif presets:
            raise RunError("leeway config: --presets lists them all: give neither a run file nor --defaults with it")
        else:
            typer.echo(config_text(file, set_ or [], defaults, as_json))


def completion(shell: Annotated[Shell, typer.Argument(help="The shell.")]) -> None:
    """Prints a script that completes `leeway` in a shell: eval "$(leeway completion bash)"."""
    typer.echo(_SCRIPTS[shell], nl=False)
