//! `snapshot` and `restore`.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};

/// `snapshot`.
#[derive(Debug, Args)]
pub struct SnapshotArgs {
    /// The sandbox, which must be stopped
    pub name: String,
    /// The file to write, which must not exist [default: NAME-TIME.cofferdam in this directory]
    pub file: Option<PathBuf>,
    /// Include this directory as the agent's files: the one given to `run --workspace` or as `workspace:`
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
    /// The file written by `snapshot`
    pub file: PathBuf,
    /// The new sandbox's name, which must be free [default: its former name]
    #[arg(long)]
    pub name: Option<String>,
    /// Keep or drop the permanent approvals in the snapshot, if any
    #[arg(long, value_name = "WORD")]
    pub approvals: Option<ApprovalsWord>,
    /// Maximum total size; each entry counts 4 KiB extra
    #[arg(long, value_name = "SIZE", default_value = "16GiB")]
    pub max_size: ByteSize,
    /// Check the snapshot and show what is in it, without creating anything
    #[arg(long, conflicts_with_all = ["name", "approvals"])]
    pub check: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What becomes of approvals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ApprovalsWord {
    /// Put them in force, trusting whoever made the file
    Keep,
    /// Leave them out: such requests are held for approval again
    Drop,
}
