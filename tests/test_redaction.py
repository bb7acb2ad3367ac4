"""Secrets of URLs are hidden wherever a text is written or printed; other text is unchanged."""

import json
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from impala_mi.config import build, to_yaml
from impala_mi.errors import TrainingError, UserError, shorten
from impala_mi.redaction import HIDDEN, has_secret, redact, redact_own, redact_url, redact_values
from impala_mi.runs.folder import RunFolder
from tests.commands import impala, refused
from tests.tiny import tiny_config

SECRET = "hunter22/+x"
URLS = {
    f"s3://AKIA:{SECRET}@bucket/runs": "s3://***@bucket/runs",
    "ftp://me:pa@ss@host:21/x": "ftp://***@host:21/x",
    "https://token@host/x": "https://***@host/x",
    "https://host/x?X-Amz-Signature=abc&se=1#token=zz": "https://host/x?X-Amz-Signature=***&se=***#token=***",
    "https://host/x?token": "https://host/x?***",
    "abfs://a:b@account/x": "abfs://***@account/x",
    "simplecache::s3://k:s@b/x": "simplecache::s3://***@b/x",
}
HARMLESS = [
    "s3://bucket/runs", "s3://bucket/runs/a@b", "file:///home/me@corp/x", "http://host:8080/a@b", "http://[::1]:80/",
    "abfs://container@account/x", "https://host/page#part", "a@b.c", "/tmp//a@b", "package.module:function", "",
    "12:30 // me@home", "s3://***@bucket/runs", "https://host/?sig=***",
]  # fmt: skip


@pytest.mark.parametrize(("url", "shown"), URLS.items())
def test_secrets_are_hidden_in_urls_and_in_texts(url, shown):
    assert redact_url(url) == redact(url) == shown
    text = "cannot read '{}', nor run.mirror={} or <{}>; see a@b.c"
    assert redact(text.format(*[url] * 3)) == text.format(*[shown] * 3)
    hidden = {"a": [shown, 1, None], shown: {"b": [shown]}}
    assert redact_values({"a": [url, 1, None], url: {"b": (url,)}}) == hidden


def test_each_url_of_a_list_is_hidden():
    assert redact("[https://u:p@h,https://v:w@g]") == "[https://***@h,https://***@g]"
    assert redact("https://h/?next=https://u:p@x/") == "https://h/?next=***"


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_stays(text):
    assert redact(text) == text
    assert redact_url(text) == text


@given(st.text(), st.text())
def test_what_is_hidden_stays_hidden(before, after):
    once = redact(f"{before}://{after}")
    assert redact(once) == once


@given(st.text("abcXYZ019+%:/_-", min_size=4))
def test_no_password_remains(secret):
    assert f"{secret}@" not in redact(f"{secret}x: s3://key:{secret}@bucket/runs")


@pytest.mark.parametrize("part", ["a", "a://", "//", "x://a:?", "//a:"])
def test_long_texts_take_no_time(part):
    big = part * (100_000 // len(part))
    start = time.process_time()
    redact(big)
    redact_url(big)
    assert time.process_time() - start < 2


def test_a_file_systems_error_is_told_without_the_secret_in_any_spelling():
    url = "ftp://me:hunter%3222@host/x?sig=abcdef"
    said = redact_own("login of me with hunter222 failed (hunter%3222, sig abcdef)", url)
    assert said == "login of me with *** failed (***, sig ***)"


def test_a_message_is_shortened_after_its_secrets_are_hidden():
    long = f"s3://AKIA:{'s' * 200}@bucket/runs"
    assert shorten(f"{'x' * 40} {long}") == f"{'x' * 40} s3://***@bucket/runs"


@pytest.mark.parametrize("kind", [UserError, TrainingError])
def test_errors_hold_no_secret(kind):
    assert str(kind(f"at s3://AKIA:{SECRET}@bucket")) == "at s3://***@bucket"


# -- files and commands --

MIRROR = f"s3://AKIA:{SECRET}@bucket/runs"


def test_the_configuration_is_written_without_it_and_a_copy_in_memory_has_it():
    config = tiny_config(f"run.mirror={MIRROR}")
    text = to_yaml(config)
    assert config.run.mirror == MIRROR
    assert SECRET not in text
    assert "mirror: s3://***@bucket/runs" in text
    assert build("x", config.model_dump()).run.mirror == MIRROR


def test_events_are_written_without_it(tmp_path):
    RunFolder(tmp_path).event("resumed", overrides=[f"run.mirror={MIRROR}"], error=f"{MIRROR}: no")
    [line] = map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines())
    assert line["overrides"] == ["run.mirror=s3://***@bucket/runs"]
    assert line["error"] == "s3://***@bucket/runs: no"


@pytest.mark.parametrize(
    "args",
    [
        ("train", "cartpole", f"run.miror={MIRROR}"),
        ("train", "cartpole", f"run.root={MIRROR}"),
        ("train", "cartpole", f"seed={MIRROR}"),
        ("train", "cartpole", f"run.mirror.x={MIRROR}"),
        ("train", "cartpole", f"run.mirror=[{MIRROR}"),
        ("train", "cartpole", f"run.mirror=ftp://me:hunter22 {SECRET}@host"),
        ("train", "cartpole", f"run.mirror={'x' * 60}://AKIA:{SECRET * 20}@bucket"),
        ("train", f"{MIRROR}/a.yaml"),
        ("train", "cartpole", f"logging.mlflow.tracking_uri=https://me:{SECRET}@host"),
        ("pbt", "cartpole_pbt", f"run.mirror={MIRROR}"),
        ("eval", MIRROR),
        ("report", f"nonsense://AKIA:{SECRET}@bucket/a"),
        ("levels", "tiny", f"run.mirror={MIRROR}", "env.nothing=1"),
    ],
)
def test_no_error_repeats_it(tmp_path, args):
    done = impala(*args, cwd=tmp_path)
    refused(done, "")
    assert "hunter22" not in done.stdout + done.stderr


def test_usage_errors_and_printed_configurations_do_not_repeat_it(tmp_path):
    done = impala("watch", "a", MIRROR, cwd=tmp_path)
    assert (done.returncode, "hunter22" in done.stderr) == (2, False)
    done = impala("train", "cartpole", f"run.mirror={MIRROR}", "--print-config", cwd=tmp_path)
    assert (done.returncode, "hunter22" in done.stdout) == (0, False)


@pytest.mark.slow
def test_a_process_of_its_own_prints_none(tmp_path):
    command = [sys.executable, "-m", "impala_mi", "train", "cartpole", f"run.mirror=nonsense://me:{SECRET}@b"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "hunter22" not in done.stdout + done.stderr
    assert HIDDEN in done.stderr


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("sqlite:////tmp/x.db?timeout=30", False),
        ("postgresql://db:5432/ml?sslmode=require", False),
        ("postgresql://db:5432/ml?sslmode=require&password=x", True),
        ("https://host/x?X-Amz-Signature=1", True),
        ("https://user@host/x", True),
        ("no url?token=1", False),
    ],
)
def test_a_query_is_a_secret_if_a_name_in_it_is_that_of_one(url, secret):
    assert has_secret(url) is secret
