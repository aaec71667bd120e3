//! `snapshot` and `restore`.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};

/// `snapshot`.
#[derive(Debug, Args)]
pub struct SnapshotArgs {
    /// The sandbox, which must be stopped
    pub name: String,
    /// The file, which must not be there yet [default: NAME-TIME.cofferdam here]
    pub file: Option<PathBuf>,
    /// Take in this directory as the agent's files: the one that `run --workspace` or `workspace:` names
    #[arg(long, value_name = "DIR")]
    pub workspace: Option<PathBuf>,
    /// Maximum total size; each entry counts 4 KiB extra
    #[arg(long, value_name = "SIZE", default_value = "16GiB")]
    pub max_size: ByteSize,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The file that `snapshot` made
    pub file: PathBuf,
    /// The new sandbox's name, which must be free [default: the name that it had]
    #[arg(long)]
    pub name: Option<String>,
    /// Keep or drop the permanent approvals in it, if there are any
    #[arg(long, value_name = "WORD")]
    pub approvals: Option<ApprovalsWord>,
    /// Maximum total size; each entry counts 4 KiB extra
    #[arg(long, value_name = "SIZE", default_value = "16GiB")]
    pub max_size: ByteSize,
    /// Judge it all and tell what is in it, and make nothing
    #[arg(long, conflicts_with_all = ["name", "approvals"])]
    pub check: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What becomes of approvals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ApprovalsWord {
    /// They are in force: whoever made the file is believed
    Keep,
    /// They are left out: what they allowed is asked about again
    Drop,
}
