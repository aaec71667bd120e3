//! What an operator answers: `identity` and `approvals`.

use clap::{Args, Subcommand, ValueEnum};

/// `identity …`.
#[derive(Debug, Subcommand)]
pub enum IdentityCommand {
    /// List the programs that have used the network, with their content at first use
    #[command(after_help = "Example:\n  cofferdam identity list assistant")]
    List {
        /// The sandbox
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Trust a program's new content, after an upgrade
    #[command(after_help = "Example:\n  cofferdam identity accept assistant /sandbox/venv/bin/python3")]
    Accept {
        /// The sandbox
        name: String,
        /// The program's path inside the sandbox
        path: String,
        /// Accept only if the new content has this SHA-256 [default: the one that `list` shows]
        #[arg(long, value_name = "HEX")]
        sha256: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Forget a program: its next use counts as its first
    #[command(after_help = "Example:\n  cofferdam identity forget assistant /sandbox/venv/bin/python3")]
    Forget {
        /// The sandbox
        name: String,
        /// The program's path inside the sandbox
        path: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// `approvals …`.
#[derive(Debug, Subcommand)]
pub enum ApprovalsCommand {
    /// List requests that were held for approval, and their answers
    #[command(after_help = "Example:\n  cofferdam approvals list assistant")]
    List {
        /// The sandbox [default: all running ones]
        name: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Allow a request once, or as a policy entry, for its program as it is now
    #[command(after_help = "Examples:\n  cofferdam approvals approve assistant-3\n  \
                            cofferdam approvals approve assistant-3 --for good --path '/repos/**'")]
    Approve {
        #[command(flatten)]
        answer: AnswerArgs,
        /// How long it lasts: one request, until the sandbox ends, or for good
        #[arg(long = "for", value_enum, default_value_t = Span::Once)]
        span: Span,
        /// Allow this method instead of the requested one, `*` for any (with --for run or good)
        #[arg(long)]
        method: Option<String>,
        /// Allow this path or pattern instead of the requested one (with --for run or good)
        #[arg(long, value_name = "PATTERN")]
        path: Option<String>,
    },
    /// Deny a request, now and for the rest of this run
    #[command(after_help = "Example:\n  cofferdam approvals deny assistant-3")]
    Deny(AnswerArgs),
    /// Withdraw an answer: the next such request is held again
    #[command(after_help = "Example:\n  cofferdam approvals revoke assistant-3")]
    Revoke(AnswerArgs),
    /// Print requests and answers as they come in, until the sandbox ends
    #[command(after_help = "Example:\n  cofferdam approvals watch assistant")]
    Watch {
        /// The sandbox
        name: String,
        /// Print JSON, one object per line
        #[arg(long)]
        json: bool,
    },
}

/// Which question is answered.
#[derive(Debug, Args)]
pub struct AnswerArgs {
    /// The request's id, as shown by `approvals list`
    pub id: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// How far an approval goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Span {
    /// One request.
    Once,
    /// Until the sandbox ends.
    Run,
    /// For good.
    Good,
}
