"""The launch files of clusters and clouds: the exact calls of commands that stand in for theirs, and the keys of files.

No cluster and no cloud is reached.  `tests/end_to_end/slurm_campaign.py` runs a real Slurm.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
FILES = ["slurm.sbatch", "tpu_vm.sh", "skypilot.yaml", "jobset.yaml", "local.sh"]
ARGUMENTS = ["--config", "configs/glue.py:rte", "--workdir", "/mnt/fjt/a run"]

# It answers as a cloud does whose VM is preempted in the first run.
GCLOUD = """#!/bin/bash
printf '<%s>' "$@" >>"$LOG"; echo >>"$LOG"
calls=$(grep -c '<ssh>' "$LOG")
case "$4" in
  describe)
    case "$(grep -c '<describe>' "$LOG") $CLOUD" in
      "1 "*) exit 1 ;;
      "2 preempts") echo PREEMPTED ;;
      *" full") [ "$(grep -c '<create>' "$LOG")" -gt 2 ] || exit 1 && echo READY ;;
      *) echo READY ;;
    esac ;;
  create) [ "$CLOUD" != full ] || [ "$(grep -c '<create>' "$LOG")" -gt 2 ] || exit 1 ;;
  ssh) if [ "$CLOUD" = preempts ] && [ "$calls" = 1 ]; then exit 255; fi; exit "${ENDS:-0}" ;;
esac
"""


@pytest.mark.parametrize("name", FILES)
def test_each_begins_with_its_use_and_is_short(name):
    lines = (ROOT / "launch" / name).read_text().splitlines()
    comment = [line for line in lines[:12] if line.startswith("# ")]
    assert len(lines) < 60 and len(comment) >= 3 and any(f"launch/{name}" in line for line in comment)


def run(script, folder, name, source, *arguments, **variables):
    """(exit code, what was printed, the calls of the command that stands in)."""
    (folder / name).write_text(source)
    (folder / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "LOG": str(folder / "log")} | variables
    (folder / "log").touch()
    done = subprocess.run(["bash", script, *arguments], env=environment, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr, (folder / "log").read_text().splitlines()


def vm(folder, *arguments, **variables):
    return run(ROOT / "launch" / "tpu_vm.sh", folder, "gcloud", GCLOUD, *arguments, **{"WAIT": "0"} | variables)


TPU = "<compute><tpus><tpu-vm>"
DESCRIBE = f"{TPU}<describe><me><--zone=us-west4-a><--format=value(state)>"
CREATE = f"{TPU}<create><me><--zone=us-west4-a><--accelerator-type=v5litepod-8><--version=v2-alpha-tpuv5-lite><--spot>"
REMOTE = (
    "mkdir -p fjt && tar -xzf fjt.tar.gz -C fjt && cd fjt && bash launch/local.sh --processes=auto "
    "--config configs/glue.py:rte --workdir /mnt/fjt/a\\ run "
)
SSH = f"{TPU}<ssh><me><--zone=us-west4-a><--worker=all><--command={REMOTE}>"
VM = ["me", "us-west4-a", "v5litepod-8", *ARGUMENTS]


def names(calls):
    return [call.split("><")[3] for call in calls]


def test_a_vm_is_made_given_the_checkout_and_run_on(tmp_path):
    code, _, calls = vm(tmp_path, *VM)
    assert code == 0 and names(calls) == ["describe", "create", "scp", "ssh"]
    assert calls[0] == DESCRIBE and calls[1] == CREATE and calls[3] == SSH
    assert calls[2].startswith(f"{TPU}<scp><") and calls[2].endswith(
        "/fjt.tar.gz><me:fjt.tar.gz><--zone=us-west4-a><--worker=all>"
    )


def test_a_vm_that_was_preempted_is_made_anew_and_the_same_command_runs_again(tmp_path):
    code, said, calls = vm(tmp_path, *VM, CLOUD="preempts")
    assert code == 0 and "starting over (1)" in said
    assert names(calls) == ["describe", "create", "scp", "ssh", "describe", "delete", "create", "scp", "ssh"]
    assert calls.count(SSH) == 2 and calls[5] == f"{TPU}<delete><me><--zone=us-west4-a><--quiet>"


def test_a_zone_without_room_is_asked_again(tmp_path):
    code, _, calls = vm(tmp_path, *VM, CLOUD="full")
    assert code == 0 and names(calls).count("create") == 3 and calls[-1] == SSH


@pytest.mark.parametrize("ends", ["2", "3"])
def test_a_mistake_is_not_tried_again(tmp_path, ends):
    code, _, calls = vm(tmp_path, *VM, ENDS=ends)
    assert code == int(ends) and names(calls).count("ssh") == 1


def test_other_failures_are_tried_as_often_as_asked(tmp_path):
    code, _, calls = vm(tmp_path, *VM, ENDS="143", RETRIES="2")
    assert code == 1 and names(calls).count("ssh") == 3 and names(calls).count("create") == 1


def test_a_share_is_mounted_first_and_spot_can_be_refused(tmp_path):
    _, _, calls = vm(tmp_path, *VM, SHARE="10.0.0.2:/my runs", SPOT="0")
    assert calls[1] == CREATE.removesuffix("<--spot>")
    assert "sudo mount -t nfs 10.0.0.2:/my\\ runs /mnt/fjt; } && mkdir -p fjt" in calls[-1]


def test_a_vm_is_deleted(tmp_path):
    code, _, calls = vm(tmp_path, "--delete", "me", "us-west4-a")
    assert code == 0 and calls == [f"{TPU}<delete><me><--zone=us-west4-a><--quiet>"]


def test_without_arguments_its_use_is_said(tmp_path):
    code, said, calls = vm(tmp_path, "me", "us-west4-a")
    assert code == 2 and "usage:" in said and not calls


# Slurm: srun and scontrol stand in.

SRUN = """#!/bin/bash
printf '<%s>' "$(basename "$0")" "$@" >>"$LOG"; echo >>"$LOG"
exit "${ENDS:-0}"
"""


def submit(folder, *arguments, **variables):
    """(exit code, what was printed, calls) of the batch script, as Slurm starts its copy of it."""
    checkout = folder / "checkout"
    (checkout / "launch").mkdir(parents=True)
    (checkout / "launch" / "environment.sh").write_text("prepare_environment() { python=/env/bin/python; }\n")
    copied = folder / "slurm_script"
    shutil.copy(ROOT / "launch" / "slurm.sbatch", copied)
    (folder / "scontrol").write_text(SRUN)
    (folder / "scontrol").chmod(0o755)
    variables = {"SLURM_SUBMIT_DIR": str(checkout), "SLURM_JOB_ID": "7"} | variables
    return run(copied, folder, "srun", SRUN, *arguments, **variables)


@pytest.mark.parametrize(
    ("variables", "arguments", "called"),
    [
        ({}, ARGUMENTS, ["fjt.main", *ARGUMENTS]),
        ({"SLURM_NTASKS": "1"}, ARGUMENTS, ["fjt.main", *ARGUMENTS]),
        ({"SLURM_NTASKS": "8"}, ARGUMENTS, ["fjt.main", "--processes=auto", *ARGUMENTS]),
        ({"SLURM_ARRAY_TASK_ID": "3"}, ["sweep", *ARGUMENTS], ["fjt.sweep", *ARGUMENTS]),
    ],
)
def test_a_job_starts_its_processes(tmp_path, variables, arguments, called):
    code, _, calls = submit(tmp_path, *arguments, **variables)
    srun = "".join(f"<{one}>" for one in ["srun", "--kill-on-bad-exit=1", "/env/bin/python", "-m", *called])
    assert code == 0 and calls == [srun]


@pytest.mark.parametrize(("ends", "again"), [("143", True), ("0", False), ("2", False), ("130", False)])
def test_a_job_that_was_stopped_is_queued_again(tmp_path, ends, again):
    code, _, calls = submit(tmp_path, *ARGUMENTS, ENDS=ends)
    assert code == int(ends) and (calls[1:] == ["<scontrol><requeue><7>"]) == again


def test_a_task_of_an_array_is_queued_again_alone(tmp_path):
    variables = {"SLURM_JOB_ID": "5", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "3"}
    _, _, calls = submit(tmp_path, "sweep", *ARGUMENTS, ENDS="143", **variables)
    assert calls[1:] == ["<scontrol><requeue><5_3>"]


def test_a_job_from_another_folder_is_refused(tmp_path):
    code, said, calls = submit(tmp_path, *ARGUMENTS, SLURM_SUBMIT_DIR=str(tmp_path))
    assert code == 2 and "from the checkout" in said and not calls


# Files of others: the keys that they use, with the kinds of their values, as their makers document them.

SKYPILOT = {  # https://docs.skypilot.co/en/latest/reference/yaml-spec.html and volumes.html
    "name": str,
    "workdir": str,
    "num_nodes": int,
    "resources": {
        "infra": str,
        "accelerators": str,
        "job_recovery": {"strategy": str, "max_restarts_on_errors": int},
    },
    "envs": {"ARGUMENTS": str, "PROCESSES": str},
    "volumes": {"/runs": str},
    "setup": str,
    "run": str,
}
CONTAINER = {
    "name": str,
    "image": str,
    "workingDir": str,
    "command": [str],
    "args": [str],
    "env": [{"name": str, "value": str}],
    "resources": {"limits": {"google.com/tpu": int}},
    "volumeMounts": [{"name": str, "mountPath": str}],
}
POD = {  # https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/
    "restartPolicy": str,
    "terminationGracePeriodSeconds": int,
    "nodeSelector": {"cloud.google.com/gke-tpu-accelerator": str, "cloud.google.com/gke-tpu-topology": str},
    "containers": [CONTAINER],
    "volumes": [{"name": str, "persistentVolumeClaim": {"claimName": str}}],
}
EXITS = {"action": str, "onExitCodes": {"containerName": str, "operator": str, "values": [int]}}
JOB = {"parallelism": int, "completions": int, "backoffLimit": int, "podFailurePolicy": {"rules": [EXITS]}}
JOBSET = {  # https://jobset.sigs.k8s.io/docs/reference/jobset.v1alpha2/
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str},
    "spec": {
        "failurePolicy": {"maxRestarts": int, "rules": [{"action": str, "onJobFailureReasons": [str]}]},
        "replicatedJobs": [
            {"name": str, "replicas": int, "template": {"spec": JOB | {"template": {"spec": POD}}}},
        ],
    },
}


def check(value, form, place=""):
    """Raises AssertionError for a key or a kind of value that is not in a form."""
    if isinstance(form, dict):
        assert isinstance(value, dict) and value.keys() <= form.keys(), (place, value)
        for key, inside in value.items():
            check(inside, form[key], f"{place}.{key}")
    elif isinstance(form, list):
        assert isinstance(value, list) and value, place
        for inside in value:
            check(inside, form[0], f"{place}[]")
    else:
        assert type(value) is form, (place, value)


@pytest.mark.parametrize(("name", "form"), [("skypilot.yaml", SKYPILOT), ("jobset.yaml", JOBSET)])
def test_files_of_others_have_the_keys_that_are_documented(name, form):
    made = yaml.safe_load((ROOT / "launch" / name).read_text())
    check(made, form)
    for key in list(made):  # a key that is misspelt is found
        with pytest.raises(AssertionError):
            check(made | {f"{key}z": made[key]}, form)


def test_a_pod_runs_the_launcher_and_stops_for_a_mistake():
    made = yaml.safe_load((ROOT / "launch" / "jobset.yaml").read_text())
    (jobs,) = made["spec"]["replicatedJobs"]
    job, pod = jobs["template"]["spec"], jobs["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["bash", "launch/local.sh", "--processes=auto"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [2, 3]}
    assert job["parallelism"] == job["completions"] and pod["restartPolicy"] == "Never"
    x, y = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    assert job["completions"] * container["resources"]["limits"]["google.com/tpu"] == x * y


@pytest.mark.parametrize(
    ("variables", "flags"),
    [
        ({"SKYPILOT_NUM_NODES": "1"}, []),
        (
            {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"},
            ["--processes=2", "--process=1", "--coordinator=10.0.0.1:8476"],
        ),
        ({"SKYPILOT_NUM_NODES": "1", "PROCESSES": "auto"}, ["--processes=auto"]),
    ],
)
def test_a_node_of_skypilot_knows_its_place(tmp_path, variables, flags):
    made = yaml.safe_load((ROOT / "launch" / "skypilot.yaml").read_text())
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "local.sh").write_text("printf '%s\\n' \"$@\"\n")
    environment = os.environ | {"PROCESSES": "", "ARGUMENTS": "--config a.py --workdir /runs/a"} | variables
    done = subprocess.run(["bash", "-c", made["run"]], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == [*flags, "--config", "a.py", "--workdir", "/runs/a"], done.stderr


def test_the_scripts_pass_shellcheck(tmp_path):
    inside = tmp_path / "run.sh"
    inside.write_text(
        "#!/bin/bash\n# shellcheck disable=SC2086\n"
        + yaml.safe_load((ROOT / "launch" / "skypilot.yaml").read_text())["run"]
    )
    shellcheck = Path(sys.executable).with_name("shellcheck")
    subprocess.run([shellcheck, "-x", ROOT / "launch" / "slurm.sbatch", inside], check=True, cwd=ROOT)
