//! `deploy/kubernetes`: checks the files as data, and runs each pod's command with the privileges that the
//! pod gives it. There is no cluster here, so what Kubernetes makes of the files isn't tested.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command};

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{PATIENCE, Running, free_port, poll};
use serde_json::Value;

use crate::common::program;
use crate::deploy;

fn documents(file: &str) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(deploy(&format!("kubernetes/{file}")))?;
    text.split("\n---\n")
        .map(|one| serde_yaml::from_str(one).with_context(|| format!("{file} is no YAML")))
        .collect()
}

fn pod(file: &str) -> Result<Value> {
    let mut all = documents(file)?;
    ensure!(all.len() == 1 && all[0]["kind"] == "Pod", "{all:?}");
    Ok(all.remove(0))
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|word| word.as_str().map(str::to_owned)).collect()
}

pub fn pods_hold_together(_stage: &Stage) -> Result<()> {
    let shared = documents("config.yaml")?;
    let has = |kind: &str, name: &Value| {
        shared.iter().any(|it| it["kind"] == kind && it["metadata"]["name"] == *name)
    };
    for file in ["rootless.yaml", "rooted.yaml"] {
        let pod = pod(file)?;
        let spec = &pod["spec"];
        ensure!(spec["hostUsers"] == false && spec["automountServiceAccountToken"] == false, "{file}");
        ensure!(spec["terminationGracePeriodSeconds"].as_u64() >= Some(45), "{file}");
        let volumes = spec["volumes"].as_array().context("no volumes")?;
        ensure!(volumes.iter().any(|it| has("ConfigMap", &it["configMap"]["name"])), "{file}");
        ensure!(
            volumes.iter().any(|it| has("PersistentVolumeClaim", &it["persistentVolumeClaim"]["claimName"])),
            "{file}"
        );
        let container = &spec["containers"][0];
        for mount in container["volumeMounts"].as_array().context("no mounts")? {
            ensure!(volumes.iter().any(|it| it["name"] == mount["name"]), "{file}: {mount}");
        }
        ensure!(container["image"].as_str().is_some_and(|image| image.contains("@sha256:")), "{file}");
        // The pod lifts the same three restrictions as the `docker run` in deploy/README.md.
        let context = &container["securityContext"];
        ensure!(context["procMount"] == "Unmasked", "{file}");
        for profile in ["seccompProfile", "appArmorProfile"] {
            ensure!(context[profile]["type"] == "Unconfined", "{file}: {profile}");
        }
        ensure!(context["privileged"].is_null() && context["capabilities"]["drop"][0] == "ALL", "{file}");
        let port = container["ports"][0]["containerPort"].as_u64().context("no port")?;
        ensure!(strings(&container["args"]).iter().any(|arg| *arg == format!("0.0.0.0:{port}")), "{file}");
    }
    let (rootless, rooted) = (pod("rootless.yaml")?, pod("rooted.yaml")?);
    ensure!(rootless["spec"]["securityContext"]["runAsNonRoot"] == true);
    ensure!(rootless["spec"]["containers"][0]["securityContext"]["capabilities"]["add"].is_null());
    ensure!(rooted["spec"]["securityContext"]["runAsUser"] == 0);
    // The two pods are equal but for the user that they run as.
    let without = |pod: &Value| {
        let mut spec = pod["spec"].clone();
        spec["securityContext"] = Value::Null;
        spec["containers"][0]["securityContext"] = Value::Null;
        spec
    };
    ensure!(without(&rootless) == without(&rooted));
    Ok(())
}

/// A pod's arguments, with the path of its file replaced by the test's and its port by a free one.
struct Arguments {
    words: Vec<String>,
    port: u16,
}

impl Arguments {
    fn of(pod: &Value, stage: &Stage) -> Result<Self> {
        let shared = documents("config.yaml")?;
        let data = shared.iter().find_map(|it| it["data"]["cofferdam.yaml"].as_str()).context("no file")?;
        let file = stage.write("cofferdam.yaml", data)?;
        let container = &pod["spec"]["containers"][0];
        let mounted = container["volumeMounts"][0]["mountPath"].as_str().context("no mount")?;
        let (given, port) = (PathBuf::from(mounted).join("cofferdam.yaml"), free_port()?);
        let words: Vec<String> = strings(&container["args"])
            .iter()
            .map(|word| word.replace(&given.display().to_string(), &file.display().to_string()))
            .map(|word| word.replace("0.0.0.0:9464", &format!("0.0.0.0:{port}")))
            .collect();
        ensure!(words.contains(&file.display().to_string()), "{words:?}");
        Ok(Self { words, port })
    }

    /// Its agent runs, and the probe of the pod is answered.
    fn is_up(&self, running: &Running) -> Result<()> {
        let get = |path: &str| -> Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        poll("the agent", PATIENCE, || {
            get("/metrics").ok()?.contains("cofferdam_agent_up{agent=\"assistant\"} 1").then_some(())
        })
        .with_context(|| format!("{} {}", running.out(), running.err()))?;
        let healthy = get("/healthz")?;
        ensure!(healthy.starts_with("HTTP/1.1 200"), "{healthy}");
        Ok(())
    }
}

pub fn a_pod_as_an_ordinary_user_runs_its_sandbox(stage: &Stage) -> Result<()> {
    let pod = pod("rootless.yaml")?;
    ensure!(pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] == false);
    let arguments = Arguments::of(&pod, stage)?;
    let mut command = stage.command(program("setpriv")?);
    command
        .env("COFFERDAM_STATE", stage.state())
        .arg("--no-new-privs")
        .arg(stage.binary())
        .args(&arguments.words);
    let running = stage.start(command)?;
    arguments.is_up(&running)
}

/// In a user namespace of 65,536 ids, as `hostUsers: false` gives it, with the pod's capabilities there.
pub fn a_pod_as_root_runs_its_sandbox(stage: &Stage) -> Result<()> {
    const FIRST: u32 = 200_000;
    let pod = pod("rooted.yaml")?;
    let arguments = Arguments::of(&pod, stage)?;
    let added = strings(&pod["spec"]["containers"][0]["securityContext"]["capabilities"]["add"]);
    let set: Vec<String> = added.iter().map(|name| format!("+{}", name.to_lowercase())).collect();
    let users = Users::new(stage, FIRST)?;
    std::os::unix::fs::chown(stage.state(), Some(FIRST), Some(FIRST))?;
    let script = format!(
        "mkdir -p /var/lib/cofferdam && mount --bind \"$1\" /var/lib/cofferdam && shift && \
         exec setpriv --bounding-set=-all,{} \"$@\"",
        set.join(",")
    );
    let mut command = stage.command(program("nsenter")?);
    command.env("COFFERDAM_STATE", "/var/lib/cofferdam");
    command.args(["-t", &users.0.id().to_string(), "--user", "-S", "0", "-G", "0"]);
    command.args([
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "sh",
        "-c",
        &script,
        "sh",
    ]);
    command.arg(stage.state()).arg(stage.binary()).args(&arguments.words);
    let running = stage.start(command)?;
    arguments.is_up(&running)?;
    // The control: it was root there, and nobody here.
    let made = std::fs::metadata(stage.state().join("assistant"))?;
    ensure!(std::os::unix::fs::MetadataExt::uid(&made) == FIRST);
    Ok(())
}

/// A process that keeps a user namespace.
struct Users(Child);

impl Users {
    fn new(stage: &Stage, first: u32) -> Result<Self> {
        let mut command: Command = stage.command(program("unshare")?);
        let users = Self(command.args(["--user", "sleep", "1000"]).spawn()?);
        let of = |what: &str| format!("/proc/{}/{what}", users.0.id());
        let here = std::fs::read_link("/proc/self/ns/user")?;
        poll("a user namespace", PATIENCE, || {
            std::fs::read_link(of("ns/user")).is_ok_and(|there| there != here).then_some(())
        })?;
        for map in ["gid_map", "uid_map"] {
            std::fs::write(of(map), format!("0 {first} 65536"))?;
        }
        Ok(users)
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
