"""Places where studies must not live are refused, each with its reason and the way out, before anything is done."""

import importlib.util
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy

from litmus.errors import Refused
from litmus.study import place as places
from litmus.study.place import ENVIRONMENT, place_of
from litmus.tracking.spool import network_filesystem
from tests.postgres import PASSWORD, QUOTED

MOUNTS = r"""sysfs /sys sysfs rw 0 0
/dev/vda / ext4 rw,relatime 0 0
server:/export /home nfs4 rw,vers=4.2 0 0
/dev/sdb /home/ann/scratch xfs rw 0 0
tmpfs /tmp tmpfs rw 0 0
10.0.0.1@tcp:/lfs /lustre lustre rw 0 0
ann@host: /mnt/my\040disk fuse.sshfs rw 0 0
//nas/share /mnt/nas cifs rw 0 0
beegfs_nodev /mnt/bee beegfs rw 0 0
/dev/gpfs0 /gpfs gpfs rw 0 0
"""


def refusal(url, home, **kwargs):
    with pytest.raises(Refused) as refused:
        place_of(url, home, **kwargs)
    return str(refused.value)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/ann/mlruns", "nfs4"),
        ("/home/ann/scratch/mlruns", ""),  # the longest mount point decides
        ("/homely", ""),
        ("/tmp/x", ""),
        ("/lustre/project", "lustre"),
        ("/mnt/my disk/x", "fuse.sshfs"),
        ("/mnt/nas", "cifs"),
        ("/mnt/bee/x", "beegfs"),
        ("/gpfs/u/x", "gpfs"),
    ],
)
def test_a_network_file_system_is_known_by_its_mount(path, kind):
    assert network_filesystem(Path(path), MOUNTS) == kind


def test_without_an_address_it_is_a_file_in_the_home(here):
    place = place_of(None, "new/mlruns")
    assert place.database == here / "new/mlruns/studies.db"
    assert place.database.parent.is_dir()
    assert place.url == place.label == f"sqlite:///{place.database}"
    assert place.shown == "sqlite:///new/mlruns/studies.db"


def test_the_environment_names_the_place_when_the_command_line_does_not(here, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, "sqlite:///from_environment.db")
    assert place_of(None, "mlruns").database == here / "from_environment.db"
    assert place_of("sqlite:///given.db", "mlruns").database == here / "given.db"
    monkeypatch.setenv(ENVIRONMENT, "mysql://host/x")
    assert "--storage (from the environment variable LITMUS_STORAGE)" in refusal(None, "mlruns")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("studies.db", "did you mean sqlite:///studies.db?"),
        ("mlruns/studies", "did you mean sqlite:///mlruns/studies?"),
        ("nonsense", "is no address; leave it out for a sqlite file in the home"),
        ("sqllite:///studies.db", "did you mean 'sqlite'?"),
        ("postgressql://host/x", "did you mean 'postgresql'?"),
        ("mysql://ann@host/x", "is mysql: only sqlite and postgresql are tested"),
        ("mysql+pymysql://ann@host/x", "is mysql: only sqlite and postgresql are tested"),
        ("redis://host", "is redis: only sqlite and postgresql are tested"),
        ("postgresql+psycopg2://host/x", "names the driver 'psycopg2'; psycopg 3 is what is tested"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file: workers are processes"),
        ("sqlite:///file:x?mode=memory&uri=true", "names no file"),
        ("sqlite:///absent/studies.db", "lies in a folder that does not exist: mkdir -p absent"),
        ("sqlite:///.", "is a folder; name the file in it"),
        ("sqlite:////proc/studies.db", "cannot be written: /proc"),
        ("sqlite:///100%.db", "has % in its path"),
        ("postgresql://ann:secret-7@host:port/x", "has a port that is no number, or a password to be encoded"),
        ("postgresql://ann:secret-7@2@host/x", "has an @ in its password: in a password write @ as %40"),
        ("mysql://ann:secret-7@host/x?password=secret-7", "is mysql"),
        ("ann:secret-7@host/x", "is no address"),
        ("gopher://ann:secret-7:x@host/x", "has an unknown scheme 'gopher'"),
    ],
)
def test_a_wrong_address_is_refused_with_its_reason_and_without_its_password(here, url, says):
    text = refusal(url, "mlruns")
    assert says in text
    assert "secret-7" not in text
    assert not (here / "mlruns").exists()


def test_sqlite_on_a_network_disk_and_on_several_machines_is_refused_for_both(here, monkeypatch):
    monkeypatch.setattr(places, "network_filesystem", lambda folder: "nfs4")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "4")
    text = refusal(None, "mlruns")
    assert "2 problems" in text
    assert "lies on a network file system (nfs4)" in text
    assert "this job has 4 (SLURM_JOB_NUM_NODES)" in text
    assert text.count("--storage postgresql://user@host/database") == 2


def test_sqlite_in_a_job_of_one_machine_is_fine(here, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    monkeypatch.setenv("SLURM_NNODES", "1")
    assert place_of(None, "mlruns").database


def filled(path, *tables):
    with closing(sqlite3.connect(path)) as db:
        for table in tables:
            db.execute(f"CREATE TABLE {table} (id INTEGER)")
    return f"sqlite:///{path.name}"


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        (["experiments", "runs", "alembic_version"], "is MLflow's database, and both keep their version in the table"),
        (["dashboards", "alembic_version"], "is another application's database (it has a table alembic_version"),
        (["patients"], "is another application's database (tables patients)"),
        (["patients", "studies"], "is another application's database (tables patients)"),
    ],
)
def test_a_database_of_others_is_refused(here, tables, says):
    assert says in refusal(filled(here / "x.db", *tables), "mlruns")


@pytest.mark.parametrize("tables", [[], ["studies", "trials"], ["studies", "version_info", "alembic_version"]])
def test_tables_of_an_optuna_that_was_killed_while_it_made_them_are_its_own(here, tables):
    assert place_of(filled(here / "x.db", *tables), "mlruns").database == here / "x.db"


def test_a_file_that_is_no_database_is_refused_and_kept(here):
    (here / "studies.db").write_text("my notes on studies, which are not a database at all\n" * 20)
    assert "is not a sqlite database; name another file" in refusal("sqlite:///studies.db", "mlruns")
    assert (here / "studies.db").read_text().startswith("my notes")


def test_a_file_that_another_program_keeps_locked_is_refused_after_a_while(here, monkeypatch):
    monkeypatch.setattr(places, "_CHECK_BUSY_SEC", 0.1)
    url = filled(here / "x.db", "studies")
    with closing(sqlite3.connect(here / "x.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert "has been locked by another program for 0.1 s" in refusal(url, "mlruns")


def test_without_the_driver_the_install_line_is_told(here, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    text = refusal("postgresql://ann:secret-7@host/x", "mlruns")
    assert "needs the driver psycopg 3, which is not installed: pip install 'litmus[postgresql]'" in text
    assert "secret-7" not in text


# With a server


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg", "PostgreSQL"])
def test_every_spelling_of_postgresql_is_psycopg_three(postgresql, here, scheme):
    place = place_of(postgresql.replace("postgresql", scheme, 1), "mlruns")
    assert place.url.startswith("postgresql+psycopg://litmus:")
    assert place.label.startswith("postgresql://litmus@127.0.0.1:")
    assert place.shown.startswith("postgresql+psycopg://litmus@127.0.0.1:")
    for text in (repr(place), str(place), place.label, place.shown):
        assert PASSWORD not in text
        assert QUOTED not in text
    assert not (here / "mlruns").exists()


def test_the_password_may_come_from_the_environment_or_a_file(server, postgresql, here, monkeypatch):
    bare = postgresql.replace(f":{QUOTED}", "")
    assert "refuses the password of 'litmus'; it is read from the address, PGPASSWORD or ~/.pgpass" in refusal(
        bare, "."
    )
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert place_of(bare, ".").url.endswith(bare.partition("://")[2])
    monkeypatch.delenv("PGPASSWORD")
    escaped = PASSWORD.replace("\\", "\\\\").replace(":", "\\:")
    (here / "pgpass").write_text(f"127.0.0.1:{server.port}:*:litmus:{escaped}\n")
    (here / "pgpass").chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(here / "pgpass"))
    assert place_of(bare, ".").database is None


def test_what_a_server_says_no_to_is_told_plainly(server, postgresql, here):
    def change(**parts):
        return sqlalchemy.make_url(postgresql).set(**parts).render_as_string(hide_password=False)

    server.psql("CREATE ROLE reader LOGIN PASSWORD 'reading-1'")
    told = {
        "refuses the password of 'litmus'": change(password="wrong-password"),
        "refuses the password of 'nobody'": change(username="nobody"),  # a server does not tell who exists
        f"has no database 'absent'; make it: createdb -h 127.0.0.1 -p {server.port} -U litmus absent": change(
            database="absent"
        ),
        "lets you make no tables; ask its owner: GRANT CREATE, USAGE ON SCHEMA public TO reader": change(
            username="reader", password="reading-1"
        ),
        "names a server at 127.0.0.1, port 9, where none listens; start it (`sudo systemctl": change(port=9),
        "names a host 'no-such-host.invalid' that is not known here": change(host="no-such-host.invalid"),
    }
    for says, url in told.items():
        text = refusal(url, ".")
        assert says in text
        assert not any(secret in text for secret in (PASSWORD, QUOTED, "wrong-password", "reading-1"))


def test_a_server_that_never_answers_is_given_up(here):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"postgresql://ann:secret-7@127.0.0.1:{deaf.getsockname()[1]}/x?connect_timeout=2"
        text = refusal(url, ".")
    assert "did not answer in" in text
    assert "secret-7" not in text


@pytest.mark.parametrize("tables", [["experiments", "runs", "alembic_version"], ["alembic_version"]])
def test_a_server_database_of_others_is_refused(server, postgresql, here, tables):
    for table in tables:
        server.psql(f"CREATE TABLE {table} (id INTEGER)", postgresql.rpartition("/")[2])
    assert "database" in refusal(postgresql, ".")
    assert "createdb" in refusal(postgresql, ".")


def test_studies_live_beside_the_tables_of_others_on_a_server(server, postgresql, here):
    server.psql("CREATE TABLE patients (id INTEGER)", postgresql.rpartition("/")[2])
    assert place_of(postgresql, ".").database is None


def test_a_home_that_cannot_be_made_is_refused(here):
    (here / "file").touch()
    assert "home = " in refusal(None, "file/mlruns")
    assert os.listdir(here) == ["file"]


def test_a_look_at_a_place_leaves_the_locks_of_this_process_alone(tmp_path):
    place = place_of(None, tmp_path)
    with closing(sqlite3.connect(place.database, isolation_level=None)) as held:
        held.execute("PRAGMA journal_mode = WAL")
        held.execute("CREATE TABLE version_info (n)")
        place_of(None, tmp_path)
        other = (
            f"import sqlite3; db = sqlite3.connect({str(place.database)!r}); db.execute('SELECT * FROM version_info')"
        )
        subprocess.run([sys.executable, "-c", f"{other}; db.close()"], check=True)
        # Had it taken itself for the last, it would have removed the log that we go on writing to.
        assert place.database.with_name(f"{place.database.name}-wal").exists()
