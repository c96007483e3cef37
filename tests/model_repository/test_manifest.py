from pathlib import Path

import pytest
from llm.config import EngineConfig
from llm.errors import ConfigError
from manifest import Reader, read_readers


def manifest(tmp_path: Path, text: str, **environ: str) -> list[Reader]:
    path = tmp_path / "groups.yaml"
    path.write_text(text)
    return read_readers({"TAKEOFF_CONFIG_FILE": str(path), **environ})


def refusal(tmp_path: Path, text: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        manifest(tmp_path, text, **environ)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def reader(lines: str) -> str:
    body = "".join(f"      {line}\n" for line in lines.split("; "))
    return f"takeoff:\n  readers_config:\n    reader1:\n{body}"


def test_the_environment_names_one_group_called_primary_with_only_the_given_settings() -> None:
    environ = {"TAKEOFF_MODEL_NAME": "gpt2", "TAKEOFF_MAX_BATCH_SIZE": "8", "TAKEOFF_DEVICE": "", "HOME": "/root"}
    assert read_readers(environ) == [Reader("primary", {"model_name": "gpt2", "max_batch_size": "8"})]


def test_a_local_folder_becomes_absolute_so_that_triton_finds_it_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my-model").mkdir()
    monkeypatch.chdir(tmp_path)
    [group] = read_readers({"TAKEOFF_MODEL_NAME": "my-model"})
    assert group.settings["model_name"] == str(tmp_path / "my-model")


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "../nothing-here", "~/no-such-folder-of-mine"])
def test_a_name_that_can_only_be_a_folder_must_be_one(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"TAKEOFF_MODEL_NAME='{name}' cannot be used: there is no such folder"):
        read_readers({"TAKEOFF_MODEL_NAME": name})


def test_a_model_name_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_text("")
    with pytest.raises(ConfigError, match="it is a file; give the model's folder"):
        read_readers({"TAKEOFF_MODEL_NAME": str(file)})


@pytest.mark.parametrize("name", [n for n in EngineConfig.setting_names() if n.startswith("max_")])
def test_a_bad_number_names_its_variable(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"TAKEOFF_{name.upper()}='-1' cannot be used"):
        read_readers({"TAKEOFF_MODEL_NAME": "gpt2", f"TAKEOFF_{name.upper()}": "-1"})


def test_a_file_names_several_groups_and_wins_over_the_environment(tmp_path: Path) -> None:
    text = """
takeoff:
  server_config:
  readers_config:
    one: {model_name: gpt2, device: cpu, max_batch_size: 4}
    two: {model_name: org/other, consumer_group: large, cuda_visible_devices: 1, max_sequence_length: }
"""
    one, two = manifest(tmp_path, text, TAKEOFF_MAX_BATCH_SIZE="9", TAKEOFF_MODEL_NAME="unused")
    assert one == Reader("primary", {"model_name": "gpt2", "device": "cpu", "max_batch_size": "4"}, 0)
    assert two == Reader("large", {"model_name": "org/other", "max_batch_size": "9"}, 1)


def test_a_name_belongs_to_one_group(tmp_path: Path) -> None:
    text = """
takeoff:
  readers_config:
    one: {model_name: gpt2, served_model_name: [gpt-4, small]}
    two: {model_name: gpt2, consumer_group: %s, served_model_name: %s}
"""
    for group, alias in (("small", ""), ("other", "primary"), ("other", "x, gpt-4")):
        sentence = refusal(tmp_path, text % (group, f'"{alias}"'))
        assert "is a name of consumer_group 'primary' already" in sentence
    one, two = manifest(tmp_path, text % ("other", "gpt-5"))
    assert one.names == ("primary", "gpt-4", "small")
    assert two.names == ("other", "gpt-5")


def test_the_environment_describes_one_reader_wholly() -> None:
    environ = {
        "TAKEOFF_MODEL_NAME": "gpt2",
        "TAKEOFF_CONSUMER_GROUP": "small",
        "TAKEOFF_CUDA_VISIBLE_DEVICES": "1",
        "TAKEOFF_TRUST_REMOTE_CODE": "1",
        "TAKEOFF_SERVED_MODEL_NAME": "gpt-4,org/name",
    }
    (reader,) = read_readers(environ)
    assert (reader.model, reader.gpu, reader.names) == ("small", 1, ("small", "gpt-4", "org/name"))
    with pytest.raises(ConfigError, match=r"TAKEOFF_CONSUMER_GROUP='a b' cannot be used"):
        read_readers({**environ, "TAKEOFF_CONSUMER_GROUP": "a b"})


def test_several_readers_of_one_group_are_its_replicas(tmp_path: Path) -> None:
    text = """
takeoff:
  readers_config:
    one: {model_name: gpt2, max_batch_size: 4}
    other: {model_name: gpt2, consumer_group: other}
    two: {model_name: gpt2, device: cuda, cuda_visible_devices: 1, page_cache_size: 1GiB}
"""
    readers = manifest(tmp_path, text)
    assert [(reader.model, reader.group, reader.gpu) for reader in readers] == [
        ("primary", "primary", 0),
        ("primary--2", "primary", 1),
        ("other", "other", 0),
    ]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("device: cpu", "reader reader1: model_name is missing"),
        ("model_name: gpt2; max_batch_size: none", "reader1: max_batch_size='none' cannot be used"),
        (
            "model_name: gpt2; max_sequence_len: 5",
            "'max_sequence_len' is no setting: the nearest one is 'max_sequence_length'",
        ),
        ("model_name: gpt2; 7: 5", "7 is no setting"),
        ("model_name: gpt2; max_batch_size: [1, 2]", "max_batch_size=[1, 2] cannot be used: give one plain value"),
        ("model_name: gpt2; max_batch_size: true", "max_batch_size='true' cannot be used"),
        ("model_name: gpt2; revision: 0123", "revision=83 cannot be used: put it in quotes"),
        ("model_name: gpt2; revision: a b", "revision='a b' cannot be used: give a branch, tag or commit"),
        ("model_name: /tmp; revision: main", "revision='main' cannot be used: a local folder has none"),
        ("model_name: gpt2; trust_remote_code: maybe", "trust_remote_code='maybe' cannot be used: use true or false"),
        ("model_name: gpt2; served_model_name: a b", "served_model_name='a b' cannot be used"),
        ("model_name: gpt2; served_model_name: [a, [b]]", "served_model_name=['a', ['b']] cannot be used"),
        ("model_name: gpt2; device: tpu", "device='tpu' cannot be used"),
        ("model_name: gpt2; cuda_visible_devices: 0,1", "cuda_visible_devices='0,1' cannot be used"),
        ("model_name: gpt2; cuda_visible_devices: '" + 5000 * "9" + "'", "cannot be used: give the number of one GPU"),
        ("model_name: gpt2; consumer_group: ../up", "consumer_group='../up' cannot be used"),
        ("model_name: gpt2; consumer_group: up--2", "'up--2' cannot be used: two dashes and a number"),
        ("model_name: gpt2; consumer_group: two words", "consumer_group='two words' cannot be used"),
        ("model_name: gpt2; consumer_group: ''", "consumer_group='' cannot be used"),
        ("model_name: gpt2; model_name: other", "'model_name' is given twice"),
        ("model_name: gpt2; [a]: 5", "a key is no plain text in line 5"),
        ("model_name: gpt2; TAKEOFF_DEVICE: cpu", "'TAKEOFF_DEVICE' is no setting: the nearest one is 'device'"),
        ("model_name: gpt2; consumer_group: 1.10", "consumer_group=1.1 cannot be used: put it in quotes"),
        ("model_name: gpt2; consumer_group: on", "consumer_group=True cannot be used: put it in quotes"),
        ("model_name: gpt2; served_model_name: 4", "served_model_name=4 cannot be used: put it in quotes"),
        ("model_name: 2020-01-01", "model_name=2020-01-01 cannot be used: put it in quotes"),
        ("model_name: gpt2; max_batch_size: 2020-01-01", "max_batch_size=2020-01-01 cannot be used: give one plain"),
        ("model_name: 2020-13-41", "is no valid YAML: month must be in 1..12"),
        ("model_name: ~nobody-of-this-name/model", "model_name='~nobody-of-this-name/model' cannot be used: "),
        ("model_name: /no/such/folder", "model_name='/no/such/folder' cannot be used"),
    ],
)
def test_a_bad_reader_is_refused_by_name(tmp_path: Path, lines: str, sentence: str) -> None:
    assert sentence in refusal(tmp_path, reader(lines))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "it must begin with 'takeoff:' and 'readers_config:'"),
        ("takeoff:", "it must begin with 'takeoff:' and 'readers_config:'"),
        ("- a list", "it must begin with 'takeoff:'"),
        ("takeoff: {}", "readers_config names no reader"),
        ("takeoff: {readers_config: {}}", "readers_config names no reader"),
        ("takeoff: {readers_config: {reader1: gpt2}}", "reader reader1: give its settings"),
        ("takeoff: {readers: {}}", "'readers' is no key of takeoff"),
        ("takeoff: {server_config: {port: 3000}}", "server_config ({'port': 3000}) cannot be used"),
        ("takeoff: {server_config: 3000}", "server_config (3000) cannot be used"),
        ("[" * 5000, "its brackets go too deep"),
        ("takeoff: {readers_config: [", "is no valid YAML"),
        ("takeoff: !!python/object:os.system {}", "is no valid YAML"),
        (
            "takeoff: {readers_config: {a: {model_name: x}, b: {model_name: y}}}",
            "reader b: model_name='y' cannot be used: another reader of consumer_group 'primary' has 'x', "
            "and replicas must answer alike",
        ),
        (
            "takeoff: {readers_config: {a: {model_name: x}, a: {model_name: y, consumer_group: z}}}",
            "'a' is given twice",
        ),
    ],
)
def test_a_bad_file_is_refused_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    assert sentence in refusal(tmp_path, text)


def test_what_replicas_disagree_on_is_said_in_words_where_one_of_them_has_nothing(tmp_path: Path) -> None:
    readers = "takeoff: {readers_config: {a: {model_name: x%s}, b: {model_name: x%s}}}"
    limit = ", max_sequence_length: 9"
    sentence = "max_sequence_length is not set: another reader of consumer_group 'primary' has '9'"
    assert sentence in refusal(tmp_path, readers % (limit, ""))
    sentence = "max_sequence_length='9' cannot be used: another reader of consumer_group 'primary' has none"
    assert sentence in refusal(tmp_path, readers % ("", limit))


def test_a_value_that_refers_to_itself_over_and_over_is_refused_in_a_short_sentence(tmp_path: Path) -> None:
    """YAML's aliases make a few lines stand for millions of words, all of which were written into the refusal."""
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 8)}]" for n in range(1, 12)]
    text = "\n".join([*lines, "takeoff: {readers_config: {a: {model_name: *l11}}}"])
    assert len(refusal(tmp_path, text)) < 1000


def test_a_folder_that_must_not_be_looked_into_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", forbidden)  # root, as whom CI runs, may look everywhere
    sentence = "model_name='/srv/m' cannot be used: Permission denied; give a folder that can be read"
    assert sentence in refusal(tmp_path, reader("model_name: /srv/m"))


def test_a_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"TAKEOFF_CONFIG_FILE='/no/such\.yaml' cannot be read: No such file"):
        read_readers({"TAKEOFF_CONFIG_FILE": "/no/such.yaml"})
