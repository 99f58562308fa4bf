"""Commands: every flag is one of the stated version, devices are conserved, and hostile names reach the engine as they are."""

import csv
import json
import re
import shlex
import subprocess
from dataclasses import replace
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytebound.documents.plan import Deployment
from bytebound.documents.values import Interval
from bytebound.errors import QuantityError, UnknownNameError
from bytebound.facts.engine_flags import engine_flags, find_flag, written
from bytebound.models import read_model
from bytebound.plan.commands import ENGINES, commands, kubernetes
from bytebound.plan.commands.manifest import document
from bytebound.plan.commands.shell import comment, line
from bytebound.predict.estimate import settle

LLAMA, MOE, DEEPSEEK = "meta-llama/Meta-Llama-3.1-70B", "Qwen/Qwen3-30B-A3B", "deepseek-ai/DeepSeek-V3"


def some(value):
    return Interval(value, 0.8 * value, 1.2 * value)


def deployment(model=LLAMA, machine="4x h100-sxm", *, engine="vllm", replicas=1, prefill_replicas=0, **work):
    """One deployment with round numbers: 64 sequences of 2,000 tokens in and 300 out."""
    return Deployment(
        model=model, machine=machine, device="h100-sxm", devices=4, replicas=replicas, prefill_replicas=prefill_replicas,
        work={"batch": 64, "prompt": 2000, "output": 300, **work}, ttft_s=some(0.5), tpot_s=some(0.03), tokens_per_s=some(3000.0),
        requests_per_s=10.0, utilization=0.7, memory_bytes=7e10, usable_bytes=7.6e10, usd_per_month=some(12000.0),
        usd_per_mtok=some(0.5), joules_per_token=some(1.0), probability=0.9, binds="weight-bandwidth", quality="lossless",
        quality_note="", engine=engine,
    )  # fmt: skip


def asked_for(model=LLAMA, machine="4x h100-sxm", *, engine="vllm", engines=ENGINES, **work):
    found = commands(deployment(model, machine, engine=engine, **work), settle(model, machine, engine), engines=engines)
    return {command.engine: command for command in found}


GRID = [
    {"tp": 4, "weights": "fp8", "kv": "fp8", "prefix_hit": 0.3, "offload_hit": 0.2, "draft_tokens": 3, "replicas": 2},
    {"tp": 2, "pp": 2, "weights": "int4", "host_weights": 0.25},
    {"tp": 4, "weights": "bf16", "kv": "bf16", "disaggregated": True, "replicas": 2, "prefill_replicas": 3, "prefix_hit": 0.1},
    {"tp": 2, "dp": 2, "weights": "fp8-block128", "chunk": 512},
    {"model": MOE, "tp": 2, "dp": 2, "ep": 4, "draft_tokens": 2},
    {"model": MOE, "machine": "rtx-4090", "engine": "llama.cpp", "weights": "q4_k", "kv": "q8_0", "host_weights": 0.5, "draft_tokens": 4},
    {"machine": "2x m2-ultra", "engine": "llama.cpp", "weights": "q8_0", "tp": 2},
    {"model": DEEPSEEK, "machine": "2x(8x h200-sxm)", "tp": 8, "dp": 2, "ep": 16, "draft_tokens": 1, "disaggregated": True, "prefill_replicas": 1},
    {"model": DEEPSEEK, "machine": "2x(8x h200-sxm)", "tp": 8, "pp": 2, "offload_hit": 0.5, "kv": "fp8"},
    {"model": DEEPSEEK, "machine": "2x(8x h200-sxm)", "tp": 4, "dp": 4, "ep": 16},
    {"machine": "8x mi300x", "tp": 8, "weights": "mxfp8", "kv": "auto", "engine": "sglang"},
    {"machine": "4x h100-sxm", "tp": 4, "weights": "fp8", "kv": "fp8", "engine": "tensorrt-llm", "disaggregated": True, "prefill_replicas": 1},
]  # fmt: skip


def table():
    """The table as its file has it, read without our reader."""
    text = (files("bytebound.facts") / "data" / "engine_flags.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def shell_lines(text):
    """Every command of a text as a shell splits it: comments and the files it writes left out."""
    text = re.sub(r"cat > \S+ <<'EOF'\n.*?\nEOF\n", "", text, flags=re.DOTALL)
    plain = "\n".join(part for part in text.split("\n") if not part.startswith("#"))
    return [shlex.split(part) for part in plain.replace("\\\n", " ").split("\n") if part.strip()]


@pytest.mark.parametrize("case", GRID, ids=str)
def test_every_flag_of_a_command_is_in_the_table_of_its_engine(case):
    known = {}
    for row in table():
        known.setdefault(row["engine"], set()).add(row["flag"])

    for command in asked_for(**case).values():
        if command.kind == "shell" and command.text:
            used = {word for words in shell_lines(command.text) for word in words if word.startswith("--")}
            assert used
            assert used <= known[command.engine], command.engine
        assert command.text or len(command.notes) == 1
        assert command.version
        assert command.source


@pytest.mark.parametrize("case", GRID, ids=str)
def test_a_manifest_asks_for_the_devices_of_the_deployment(case):
    """Pods × devices of a pod are the devices of all copies, and every Service finds its pods."""
    yaml = pytest.importorskip("yaml", reason="PyYAML reads the manifests back")
    command = asked_for(**case, engines=("kubernetes",))["kubernetes"]
    if not command.text:
        pytest.skip(command.notes[0])
    parts = list(yaml.safe_load_all(command.text))

    devices, labels = 0, []
    for part in parts:
        if part["kind"] == "Deployment":
            pod = part["spec"]["template"]["spec"]["containers"][0]
            labels.append(part["spec"]["template"]["metadata"]["labels"])
            devices += part["spec"]["replicas"] * sum(int(n) for n in pod["resources"]["limits"].values())
        elif part["kind"] == "LeaderWorkerSet":
            group = part["spec"]["leaderWorkerTemplate"]
            labels.append(group["leaderTemplate"]["metadata"]["labels"])
            pods = [group["leaderTemplate"], *[group["workerTemplate"]] * (group["size"] - 1)]
            devices += part["spec"]["replicas"] * sum(
                int(n) for pod in pods for n in pod["spec"]["containers"][0]["resources"]["limits"].values()
            )
    copies = case.get("replicas", 1) + (case["prefill_replicas"] if case.get("disaggregated") else 0)
    assert devices == copies * case.get("tp", 1) * case.get("pp", 1) * case.get("dp", 1)
    services = [part for part in parts if part["kind"] == "Service"]
    assert [service["spec"]["selector"] for service in services] == labels
    names = [part["metadata"]["name"] for part in parts]
    assert all(re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name) for name in names)


def flags_of(words):
    """Flag -> value of one command line."""
    found = {}
    for place, word in enumerate(words):
        if word.startswith("--"):
            after = words[place + 1] if place + 1 < len(words) else ""
            found[word] = "" if after.startswith("--") else after
    return found


def test_nodes_of_a_data_parallel_copy_hold_all_its_ranks_once():
    text = asked_for(DEEPSEEK, "2x(8x h200-sxm)", tp=4, dp=4, ep=16, engines=("vllm",))["vllm"].text
    nodes = [flags_of(words) for words in shell_lines(text)]

    ranks = [
        rank
        for node in nodes
        for rank in range(
            int(node.get("--data-parallel-start-rank", 0)),
            int(node.get("--data-parallel-start-rank", 0)) + int(node["--data-parallel-size-local"]),
        )
    ]
    assert ranks == list(range(int(nodes[0]["--data-parallel-size"]))) == [0, 1, 2, 3]
    assert ["--headless" in node for node in nodes] == [False, True]


def test_vllm_says_what_the_plan_assumed():
    found = flags_of(shell_lines(asked_for(**GRID[0])["vllm"].text)[0])

    assert found["--tensor-parallel-size"] == "4"
    assert found["--quantization"] == "fp8_per_channel"
    assert found["--kv-cache-dtype"] == "fp8"
    assert found["--max-num-seqs"] == "64"
    assert found["--max-num-batched-tokens"] == "8192"
    assert found["--gpu-memory-utilization"] == "0.9"
    assert json.loads(found["--speculative-config"]) == {
        "method": "draft_model", "model": "DRAFT_MODEL", "num_speculative_tokens": 3,
    }  # fmt: skip


def test_weights_in_host_memory_are_those_that_leave_the_device():
    """140 GB of 16-bit weights over 4 devices: a quarter of the layers' is 8 to 9 GiB a device."""
    found = flags_of(shell_lines(asked_for(tp=4, host_weights=0.25, engines=("vllm",))["vllm"].text)[0])

    assert 7.5 < float(found["--cpu-offload-gb"]) < 8.2


def test_a_checkpoint_that_stores_the_format_is_not_quantized_again():
    stored = asked_for("Qwen/Qwen3-30B-A3B-FP8", "h100-sxm", weights="fp8-block128", engines=("vllm", "sglang"))
    plain = asked_for(MOE, "h100-sxm", weights="fp8-block128", engines=("vllm",))

    assert all("--quantization" not in command.text for command in stored.values())
    assert "--quantization fp8_per_block" in plain["vllm"].text


def test_disaggregated_sides_hand_their_cache_over_and_a_proxy_knows_all_of_them():
    found = asked_for(**GRID[2])
    prefill, decode, proxy = shell_lines(found["vllm"].text)

    roles = [json.loads(flags_of(side)["--kv-transfer-config"])["kv_role"] for side in (prefill, decode)]
    assert roles == ["kv_producer", "kv_consumer"]
    assert (proxy.count("PREFILL"), proxy.count("DECODE")) == (3, 2)
    modes = [flags_of(words).get("--disaggregation-mode") for words in shell_lines(found["sglang"].text)]
    assert modes == ["prefill", "decode", None]
    assert shell_lines(found["sglang"].text)[-1].count("--prefill") == 3


def test_a_side_that_also_keeps_cache_in_host_memory_does_both():
    """The flag --kv-offloading-size takes the place of any other connector of vLLM, so both are named in one."""
    text = asked_for(tp=4, disaggregated=True, prefill_replicas=1, offload_hit=0.4, engines=("vllm",))["vllm"].text
    for side in shell_lines(text)[:2]:
        found = flags_of(side)
        held = json.loads(found["--kv-transfer-config"])["kv_connector_extra_config"]["connectors"]

        assert "--kv-offloading-size" not in found
        assert [each["kv_connector"] for each in held] == ["NixlConnector", "OffloadingConnector"]
        assert held[1]["kv_connector_extra_config"]["cpu_bytes_to_use"] > 2**30


def test_a_quantized_checkpoint_is_not_quantized_into_another_format():
    notes = asked_for("openai/gpt-oss-120b", "h100-sxm", weights="bf16", engines=("vllm",))["vllm"].notes

    assert any("stores mxfp4" in note and "16-bit" in note for note in notes)


def test_tensorrt_llm_reads_from_a_file_what_has_no_flag():
    yaml = pytest.importorskip("yaml", reason="PyYAML reads the options back")
    texts = asked_for(tp=4, kv="fp8", draft_tokens=3, prefix_hit=0.2, engines=("tensorrt-llm",))["tensorrt-llm"].text
    file = re.search(r"<<'EOF'\n(.*?)\nEOF\n", texts, re.DOTALL)

    assert file is not None
    assert yaml.safe_load(file[1]) == {
        "kv_cache_config": {"dtype": "fp8", "enable_block_reuse": True},
        "speculative_config": {
            "decoding_type": "DraftTarget",
            "max_draft_len": 3,
            "speculative_model_dir": "DRAFT_MODEL",
        },
        "disable_overlap_scheduler": True,
    }
    assert flags_of(shell_lines(texts)[0])["--extra_llm_api_options"] == "options.yaml"


def test_tensorrt_llm_shares_one_set_of_experts_between_data_parallel_attention():
    """671 GB of experts fit no single device: eight servers of one device each would not start."""
    command = asked_for(DEEPSEEK, "8x b200-sxm", dp=8, ep=8, engines=("tensorrt-llm",))["tensorrt-llm"]
    flags = flags_of(shell_lines(command.text)[0])

    assert (flags["--tp_size"], flags["--ep_size"]) == ("8", "8")
    assert "enable_attention_dp: true" in command.text
    assert not any("start 8" in note for note in command.notes)


def test_pods_of_an_engine_without_data_parallelism_ask_for_all_devices_once():
    text = asked_for(tp=2, dp=2, engine="tensorrt-llm", engines=("kubernetes",))["kubernetes"].text

    assert re.findall(r'replicas: (\d+)|nvidia.com/gpu: "(\d+)"', text) == [("2", ""), ("", "2"), ("", "2")]


def test_no_engine_of_language_models_is_started_for_an_image_model():
    found = asked_for("black-forest-labs/FLUX.1-dev--transformer", "h100-sxm")

    assert set(found) == set(ENGINES)
    assert all(command.text == "" and "image" in command.notes[0] for command in found.values())


@pytest.mark.parametrize(
    ("case", "engine", "word"),
    [
        ({"model": MOE, "tp": 2, "dp": 2, "ep": 4}, "tensorrt-llm", "attention"),
        ({"machine": "8x mi300x", "tp": 8}, "tensorrt-llm", "NVIDIA"),
        ({"model": MOE, "machine": "4x h100-sxm", "tp": 4, "ep": 4}, "llama.cpp", "expert"),
        ({"tp": 4, "disaggregated": True, "prefill_replicas": 1}, "llama.cpp", "prefill"),
        ({"tp": 4, "weights": "q4_k"}, "vllm", "q4_k"),
        ({"tp": 4, "kv": "q4_0"}, "sglang", "q4_0"),
        ({"tp": 4, "host_weights": 0.5}, "tensorrt-llm", "host"),
        ({"model": MOE, "tp": 2, "dp": 2, "ep": 4, "draft_tokens": 2}, "sglang", "draft model"),
        ({"machine": "m2-ultra", "weights": "int4"}, "vllm", "m2-ultra"),
    ],
)
def test_what_an_engine_cannot_do_is_one_note_and_no_command(case, engine, word):
    command = asked_for(**case)[engine]

    assert command.text == ""
    assert len(command.notes) == 1
    assert word in command.notes[0]


def test_the_engine_of_the_plan_comes_first_and_the_others_say_so():
    found = commands(deployment(engine="sglang", tp=4), settle(LLAMA, "4x h100-sxm", "sglang"))

    assert found[0].engine == "sglang"
    assert all(
        "predicted for sglang" in command.notes[-1]
        for command in found
        if command.text and command.engine not in {"sglang", "kubernetes"}
    )


def test_an_engine_without_commands_is_named():
    with pytest.raises(UnknownNameError, match="tgi"):
        commands(deployment(), settle(LLAMA, "4x h100-sxm", "vllm"), engines=("tgi",))


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("--no-such-flag", None, UnknownNameError),
        ("--kv-cache-dtype", "q4_0", UnknownNameError),
        ("--max-num-seqs", 1.5, QuantityError),
        ("--max-num-seqs", "many", QuantityError),
        ("--gpu-memory-utilization", 90, QuantityError),
        ("--enable-prefix-caching", "yes", QuantityError),
    ],
)
def test_a_flag_or_value_that_is_not_in_the_table_is_never_written(name, value, error):
    with pytest.raises(error):
        written("vllm", name, value)


def test_every_flag_has_a_public_source_and_a_meaning():
    for flag in engine_flags().values():
        assert flag.meaning
        assert re.search(r"PyPI|[\w.-]+/[\w.-]+|[a-z]\.(io|com)|tag as the project|named in public|NGC", flag.source), (
            flag
        )
        assert (flag.kind == "choice") <= bool(flag.values)


HOSTILE = [
    "a b",
    "$(touch pwned)",
    "`id`",
    "x'y\"z",
    "a\nb",
    "; rm -rf x",
    "-rf",
    "ü/模型",
    "\x1b[31m",
    "a\\b",
    "!!",
    "*",
    "$HOME",
    "# x",
]


def named(name, **work):
    setting = settle(replace(read_model(LLAMA), name=name, source=""), "4x h100-sxm", "vllm")
    return {
        c.engine: c for c in commands(deployment(name, tp=4, **work), setting, engines=("vllm", "sglang", "kubernetes"))
    }


@pytest.mark.parametrize("name", HOSTILE)
def test_a_real_shell_hands_a_hostile_name_over_as_it_is(name, tmp_path):
    text = named(name)["vllm"].text
    script = "vllm() { printf '%s\\0' \"$@\"; }\n" + text

    run = subprocess.run(["bash", "-c", script], capture_output=True, cwd=tmp_path, check=True)  # noqa: S603, S607

    words = run.stdout.decode().split("\0")
    assert words[:2] == ["serve", f"./{name}" if name.startswith("-") else name]
    assert words[2:4] == ["--host", "0.0.0.0"]  # noqa: S104
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", HOSTILE)
def test_a_manifest_holds_a_hostile_name_as_it_is(name):
    yaml = pytest.importorskip("yaml", reason="PyYAML reads the manifests back")
    part = next(iter(yaml.safe_load_all(named(name)["kubernetes"].text)))

    words = part["spec"]["template"]["spec"]["containers"][0]["command"]
    expected = f"./{name}" if name.startswith("-") else name
    assert words[2].replace("$$(", "$(") == expected
    assert "$(" not in words[2].replace("$$(", "")  # a pod replaces $(NAME), and $$(NAME) stands for itself


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8")), min_size=1))
def test_a_line_splits_into_its_words_again(words):
    assert shlex.split(line(("run", *words)).replace(" \\\n", " ")) == ["run", *words]


@given(st.text())
def test_a_comment_stays_on_its_line(text):
    assert len(comment(text).splitlines()) == 1


plain = (
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(0.001, 1e9).map(lambda x: round(x, 3))
    | st.text()
)
trees = st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(min_size=1), inner), max_leaves=12)


@given(trees)
@settings(max_examples=150, deadline=None)
def test_what_is_written_as_yaml_is_read_back(value):
    yaml = pytest.importorskip("yaml", reason="PyYAML is the independent reader")

    assert yaml.safe_load(document(value)) == value


@given(st.text(max_size=80), st.sampled_from(["", "prefill"]))
def test_any_name_becomes_a_label_of_kubernetes(name, role):
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", kubernetes.label(name, role))


def test_llama_server_of_the_installed_package_knows_our_flags():
    """The binary holds the texts of its own options: a flag of ours that is not among them would be refused."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="the llama.cpp that the flags are stated of")
    import pathlib

    binary = b"".join(path.read_bytes() for path in pathlib.Path(xllamacpp.__file__).parent.glob("*.so"))
    flags = [flag.flag for flag in engine_flags().values() if (flag.engine, flag.place) == ("llama.cpp", "flag")]
    assert len(flags) > 15
    missing = [flag for flag in flags if flag.encode() + b"\0" not in binary]
    assert missing == []
    assert f"{find_flag('llama.cpp', '--model').version}"[1:] in xllamacpp.__version__
    choices = [choice for name in ("--spec-type",) for choice in find_flag("llama.cpp", name).values]
    assert [choice for choice in choices if choice.encode() not in binary] == []


def parsed_by(parser, engine, program):
    """Parse every command of the grid with the engine's own parser; return how many were."""
    count = 0
    for case in GRID:
        text = asked_for(**case, engines=(engine,))[engine].text
        for words in shell_lines(text):
            if program in words:
                parser.parse_args(words[words.index(program) + 1 :])
                count += 1
    return count


def test_vllm_parses_our_commands():
    """Run here once with the sources of vLLM 0.33.0; skipped where vLLM is not installed."""
    pytest.importorskip("vllm", reason="vLLM's own argument parser")
    from vllm import platforms
    from vllm.entrypoints.common.cli_args import make_arg_parser
    from vllm.platforms.cpu import CpuPlatform
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    platforms._current_platform = CpuPlatform()
    assert parsed_by(make_arg_parser(FlexibleArgumentParser()), "vllm", "serve") > 8


def test_sglang_parses_our_commands():
    """Run here once with the sources of SGLang 0.5.23; skipped where SGLang is not installed."""
    pytest.importorskip("sglang", reason="SGLang's own argument parser")
    import argparse

    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser(allow_abbrev=False)
    ServerArgs.add_cli_args(parser)
    assert parsed_by(parser, "sglang", "sglang.launch_server") > 6


def test_a_manifest_is_one_that_the_kubernetes_client_knows():
    """Every key is a field of the API and none that is required is missing; run here once with its Python client."""
    client = pytest.importorskip("kubernetes.client", reason="the models of the Kubernetes API")
    yaml = pytest.importorskip("yaml", reason="PyYAML reads the manifests back")
    api, count = client.ApiClient(), 0

    def kept(asked, back):
        if isinstance(asked, dict):
            return all(key in back and kept(asked[key], back[key]) for key in asked)
        if isinstance(asked, list):
            return len(asked) == len(back) and all(map(kept, asked, back))
        return str(asked) == str(back)

    for case in GRID:
        for part in yaml.safe_load_all(asked_for(**case, engines=("kubernetes",))["kubernetes"].text or "{}"):
            group = part.get("spec", {}).get("leaderWorkerTemplate", {})
            pods = [
                (group[side], "V1PodTemplateSpec") for side in ("leaderTemplate", "workerTemplate") if side in group
            ]
            for asked, model in pods or ([(part, f"V1{part['kind']}")] if part else []):
                read = api.deserialize(json.dumps(asked), model, "application/json")
                assert kept(asked, api.sanitize_for_serialization(read))
                count += 1
    assert count > 20
