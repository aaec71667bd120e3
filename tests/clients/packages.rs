//! Package managers, each from a registry of the world.

use anyhow::Result;
use bed::Stage;

use crate::client::{Evil, Told, both, installed};
use crate::common::program;
use crate::node::newest;

/// What the package says when it is used.
const GREETING: &str = "hello from bedpkg";

/// Runs a script that installs and uses the package, then fails to get one that the policy refuses.
fn manager(stage: &Stage, registry: &str, script: &str, denied: &[&str]) -> Result<()> {
    let prints = [&[GREETING], denied].concat();
    both(stage, script, &Told { prints: &prints, arrives: registry, evil: Evil::ByProxy })
}

pub fn pip(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    let script = format!(
        "{python} -m pip --version || exit 97
        install() {{ {python} -m pip -vv --disable-pip-version-check install --no-cache-dir --retries 0 --target /tmp/$1 \
            --index-url https://$2.bed.test/simple $3 2>&1; }}
        install a pypi bedpkg; PYTHONPATH=/tmp/a {python} -c 'import bedpkg; print(bedpkg.GREETING)'
        install b pypi secretpkg || echo code $?
        install c evil bedpkg || echo code $?"
    );
    manager(stage, "pypi.bed.test", &script, &["403", "code 1", "code 1"])
}

pub fn uv(stage: &Stage) -> Result<()> {
    let (uv, python) = (installed("venv/bin/uv")?, program("python3")?);
    let script = format!(
        "install() {{ {uv} --no-progress --cache-dir /tmp/uv pip install --python {python} --target /tmp/$1 \
            --index-url https://$2.bed.test/simple $3 2>&1; }}
        install a pypi bedpkg; PYTHONPATH=/tmp/a {python} -c 'import bedpkg; print(bedpkg.GREETING)'
        install b pypi secretpkg || echo code $?
        export UV_HTTP_RETRIES=0; install c evil otherpkg || echo code $?"
    );
    manager(stage, "pypi.bed.test", &script, &["403", "code 1", "code "])
}

/// `bedmany` depends on as many packages as make a manager open connections side by side.
const USE: &str = "require(\"bedmany\"), require(\"bedpkg\")";

pub fn npm(stage: &Stage) -> Result<()> {
    let (npm, node) = (program("npm")?, program("node")?);
    let script = format!(
        "install() {{ mkdir -p /tmp/$1 && cd /tmp/$1 && {npm} install --no-audit --no-fund --fetch-retries=0 \
            --registry https://$2.bed.test/ $3 2>&1; }}
        install a npm bedmany && install a npm bedpkg && {node} -p '{USE}'
        install b npm secretpkg || echo code $?
        install c evil bedpkg || echo code $?"
    );
    manager(stage, "npm.bed.test", &script, &["403", "code 1", "code 1"])
}

pub fn yarn(stage: &Stage) -> Result<()> {
    let (yarn, node) = (installed("node/node_modules/yarn/bin/yarn.js")?, newest()?);
    let script = format!(
        "install() {{ mkdir -p /tmp/$1 && cd /tmp/$1 && {node} {yarn} add --non-interactive --cache-folder /tmp/y \
            --registry https://$2.bed.test/ $3 2>&1; }}
        install a npm bedmany && install a npm bedpkg && {node} -p '{USE}'
        install b npm secretpkg || echo code $?
        install c evil bedpkg || echo code $?"
    );
    manager(stage, "npm.bed.test", &script, &["code 1", "code 1"])
}

pub fn pnpm(stage: &Stage) -> Result<()> {
    let (pnpm, node) = (installed("node/node_modules/pnpm/bin/pnpm.mjs")?, newest()?);
    let script = format!(
        "export XDG_CACHE_HOME=/tmp/c XDG_DATA_HOME=/tmp/d XDG_STATE_HOME=/tmp/s CI=1 PNPM_CONFIG_FETCH_RETRIES=0
        install() {{ mkdir -p /tmp/$1 && cd /tmp/$1 && {node} {pnpm} add --store-dir /tmp/store \
            --registry https://$2.bed.test/ $3 2>&1; }}
        install a npm bedmany && install a npm bedpkg && {node} -p '{USE}'
        install b npm secretpkg || echo code $?
        install c evil bedpkg || echo code $?"
    );
    manager(stage, "npm.bed.test", &script, &["403", "code 1", "code 1"])
}

pub fn cargo(stage: &Stage) -> Result<()> {
    let cargo = installed("rust/bin/cargo")?;
    let rustc = installed("rust/bin/rustc")?;
    program("gcc")?;
    let script = format!(
        "export CARGO_HOME=/tmp/cargo RUSTC={rustc} CARGO_NET_RETRY=0
        make() {{
            mkdir -p /tmp/$1/src && cd /tmp/$1 && mkdir -p .cargo
            printf '[source.crates-io]\\nreplace-with = \"bed\"\\n[source.bed]\\nregistry = \"sparse+https://%s.bed.test/index/\"\\n' $2 >.cargo/config.toml
            printf '[package]\\nname = \"a\"\\nversion = \"1.0.0\"\\nedition = \"2021\"\\n[dependencies]\\n%s = \"1\"\\n' $3 >Cargo.toml
            printf 'fn main() {{ println!(\"{{}}\", bedcrate::GREETING); }}\\n' >src/main.rs
            {cargo} $4 2>&1
        }}
        make a crates bedcrate run
        make b crates secretcrate fetch || echo code $?
        make c evil bedcrate fetch || echo code $?"
    );
    manager(stage, "crates.bed.test", &script, &["403", "policy_denied", "code 101", "code 101"])
}

/// Update and download, over TLS and in the clear.
pub fn apt(stage: &Stage) -> Result<()> {
    let (apt, dpkg) = (program("apt-get")?, program("dpkg-deb")?);
    let script = format!(
        "get() {{
            mkdir -p /tmp/$1/lists/partial /tmp/$1/archives/partial && cd /tmp/$1 && touch status
            echo \"deb [trusted=yes] $2 ./\" >sources.list
            for step in update 'download bedpkg'; do
                {apt} -o Dir::Etc::sourcelist=$PWD/sources.list -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::parts=/dev/null \
                    -o Dir::State=$PWD -o Dir::State::status=$PWD/status -o Dir::Cache=$PWD -o Acquire::Retries=0 \
                    -o APT::Sandbox::User= $step 2>&1 || return
            done
            {dpkg} -x bedpkg_1.0.0_all.deb . && cat usr/share/bedpkg/greeting && echo
        }}
        get a https://deb.bed.test/; get b http://deb.bed.test/
        get c https://deb.bed.test/secret/ || echo code $?
        get d https://evil.bed.test/ || echo code $?"
    );
    manager(stage, "deb.bed.test", &script, &[GREETING, "403", "code 100", "code 100"])
}
