"""The command line itself: help, version, messages about arguments, and how it ends."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import holdsvc
from holdsvc.commands.cli import program
from holdsvc.embedded.server import running_dsn
from holdsvc.variables import rows
from tests.support.polling import wait_until
from tests.support.program import WAIT_S, Program, command, descendants


def families(group: typer.Typer, prefix: str = "") -> Iterator[str]:
    """Every command and every group of commands."""
    yield prefix.strip()
    for each in group.registered_commands:
        yield f"{prefix}{each.name}"
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from families(inner.typer_instance, f"{prefix}{inner.name} ")


def help_of(family: str, option: str = "--help") -> str:
    """The help's text, its borders and line breaks taken out."""
    words = family.split()
    result = CliRunner().invoke(program(words), [*words, option], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == 0, result.output
    return " ".join(result.output.replace("│", " ").split())


@pytest.mark.parametrize("family", [*families(program())])
def test_every_command_has_both_options_for_help(family: str) -> None:
    assert help_of(family, "-h") == help_of(family)


@pytest.mark.parametrize("family", ["serve", "config"])
def test_the_help_of_a_setting_has_its_whole_description_its_variable_and_its_default(family: str) -> None:
    text = help_of(family)
    for row in rows():
        default = f"default: {row.default}" if row.default else "no default"
        assert " ".join(f"{row.description} [{row.env_name}; {default}]".split()) in text


def test_the_version_is_that_of_the_package() -> None:
    done = command("--version")
    assert (done.returncode, done.stdout) == (0, f"holdsvc {holdsvc.__version__}\n")
    assert holdsvc.__version__[0].isdigit()


@pytest.mark.parametrize("package", ["typer", "pydantic_settings", "psycopg", "structlog"])
def test_without_the_packages_of_the_server_the_program_says_what_to_install(package: str) -> None:
    program = f"import runpy, sys; sys.modules['{package}'] = None; runpy.run_module('holdsvc', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"holdsvc: the command line needs the package {package}, which the base installation does not bring along: pip"
        " install 'holdsvc[server]'\n"
    )


def test_a_command_starts_without_what_only_the_service_needs() -> None:
    # `holds` is one of those that call a service.
    modules = {"protovalidate", "textual", "uvloop", "structlog", "holdsvc.ledger.database"}
    program = (
        f"import sys; from holdsvc.commands import cli; cli.program(['get']); print({modules} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=WAIT_S, check=True)
    assert done.stdout == "set()\n"


def test_top_without_its_package_says_what_to_install() -> None:
    program = "import runpy, sys; sys.modules['textual'] = None; runpy.run_module('holdsvc', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", program, "top"], capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert (done.returncode, done.stderr) == (
        1,
        "holdsvc: top needs the package textual: pip install 'holdsvc[cli]'\n",
    )


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1", ":50051", "host:port", "127.0.0.1:70000", "::1:5"])
def test_health_tells_a_malformed_address_from_one_that_does_not_answer(address: str) -> None:
    done = command("health", "--address", address)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"holdsvc: --address: '{address}'" in done.stderr


def test_config_names_a_misspelt_variable_and_the_one_that_may_be_meant() -> None:
    done = command("config", environment={"HOLDSVC_WORKRS": "2", "HOLDSVC_COLOUR_OF_SKY": "blue"})
    assert done.returncode == 0
    assert "holdsvc: HOLDSVC_WORKRS is no setting: did you mean HOLDSVC_WORKERS?" in done.stderr
    assert "holdsvc: HOLDSVC_COLOUR_OF_SKY is no setting" in done.stderr


def test_config_says_with_which_other_settings_a_service_runs_on_the_data_folder(
    prepared: Path, tmp_path: Path
) -> None:
    data_dir = Path(shutil.copytree(prepared, tmp_path / "data"))
    environment = {"HOLDSVC_DATA_DIR": str(data_dir)}
    assert command("config", environment=environment).stderr == ""
    with Program(data_dir, auth="off", census_interval="7s") as program:
        program.serving()
        told = command("config", environment=environment).stderr
        assert told.startswith(
            f"holdsvc: process {program.pid} runs on {data_dir}; below are the settings that a start"
        )
        assert f"It runs with HOLDSVC_LISTEN={program.address}, " in told
        assert "HOLDSVC_AUTH=off" in told
        assert "HOLDSVC_CENSUS_INTERVAL=7s" in told
        assert "HOLDSVC_WORKERS" not in told
        same = command("config", environment={**program.environment, "HOLDSVC_LISTEN": program.address}).stderr
        assert ", and it runs with the same" in same
        program.kill()
        program.end()
    assert command("config", environment=environment).stderr == ""


def test_serve_refuses_a_folder_that_holds_other_things_and_leaves_it_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.odt").touch()
    with Program(tmp_path) as program:
        assert program.end() == 1
    assert f"{tmp_path} holds other things (thesis.odt) and no database of holdsvc" in program.output
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.odt"]


def test_with_keys_on_and_none_made_the_log_says_how_to_make_one(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared, tmp_path / "data")
    with Program(tmp_path / "data", auth="api-key") as program:
        assert "holdsvc keys create" in program.wait_for("keys.none_made")["do"]
        program.serving()
        made = command("keys", "create", "--client", "web", environment=program.environment)
        assert made.returncode == 0
        program.terminate()
        program.end()
    with Program(tmp_path / "data", auth="api-key") as program:
        program.serving()
        assert "keys.none_made" not in program.output


def _imports(pid: int) -> bool:
    return "psycopg_binary" in Path(f"/proc/{pid}/maps").read_text()


def _child(name: str) -> Callable[[int], bool]:
    return lambda pid: any(name in line for _, line, _ in descendants(pid))


@pytest.mark.parametrize(
    ("arguments", "reached"),
    [
        (("serve",), _imports),
        (("serve",), _child("postgres -D")),
        (("serve",), _child("spawn_main")),
        (("verify",), _imports),
        (("verify",), _child("postgres -D")),
        (("relay", "--to", "stdout"), _child("postgres -D")),
    ],
)
def test_ctrl_c_at_any_moment_of_a_start_ends_it_without_a_traceback(
    prepared: Path, tmp_path: Path, arguments: tuple[str, ...], reached: Callable[[int], bool]
) -> None:
    data_dir = Path(shutil.copytree(prepared, tmp_path / "data"))
    flags = ("--listen", "127.0.0.1:0", "--metrics-listen", "", "--auth", "off") if arguments == ("serve",) else ()
    process = subprocess.Popen(
        [sys.executable, "-m", "holdsvc", *arguments, *flags, "--data-dir", str(data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    # As often as it can: each state lasts for a moment only.
    wait_until(lambda: process.poll() is not None or reached(process.pid), timeout_s=WAIT_S, pause_s=0.001)
    # As a terminal does it: to the process and all its children at once.
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=WAIT_S)
    assert "Traceback" not in output, output
    # Python takes its handlers back when it ends: from then on the signal itself ends it.
    assert process.returncode in (0, 130, -signal.SIGINT)
    # Where the signal came between the server's start and its first look, the kernel has told the server to end.
    wait_until(lambda: not running_dsn(data_dir), timeout_s=WAIT_S)
