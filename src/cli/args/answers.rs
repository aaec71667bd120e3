//! What an operator answers: `identity` and `approvals`.

use clap::{Args, Subcommand, ValueEnum};

/// `identity …`.
#[derive(Debug, Subcommand)]
pub enum IdentityCommand {
    /// List the programs that have asked for the network, by what they contained at first use
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
        /// The program, by its path inside
        path: String,
        /// Only if this is the content that was seen there [default: the one that `list` shows]
        #[arg(long, value_name = "HEX")]
        sha256: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Forget a program: its next use is a first use
    #[command(after_help = "Example:\n  cofferdam identity forget assistant /sandbox/venv/bin/python3")]
    Forget {
        /// The sandbox
        name: String,
        /// The program, by its path inside
        path: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// `approvals …`.
#[derive(Debug, Subcommand)]
pub enum ApprovalsCommand {
    /// List what was asked for, and what was answered
    #[command(after_help = "Example:\n  cofferdam approvals list assistant")]
    List {
        /// The sandbox [default: all that run]
        name: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Let a request through: this one, or as an entry of the policy, for its program as it is now
    #[command(after_help = "Examples:\n  cofferdam approvals approve assistant-3\n  \
                            cofferdam approvals approve assistant-3 --for good --path '/repos/**'")]
    Approve {
        #[command(flatten)]
        answer: AnswerArgs,
        /// How far it goes: one request, until the sandbox ends, or for good
        #[arg(long = "for", value_enum, default_value_t = Span::Once)]
        span: Span,
        /// Another method than was asked for, `*` for any (with --for run or good)
        #[arg(long)]
        method: Option<String>,
        /// Another path, or a pattern (with --for run or good)
        #[arg(long, value_name = "PATTERN")]
        path: Option<String>,
    },
    /// Refuse it, now and whenever it comes again in this run
    #[command(after_help = "Example:\n  cofferdam approvals deny assistant-3")]
    Deny(AnswerArgs),
    /// Take an answer back: it is asked again when it comes again
    #[command(after_help = "Example:\n  cofferdam approvals revoke assistant-3")]
    Revoke(AnswerArgs),
    /// Print each question and each answer as it comes, until the sandbox ends
    #[command(after_help = "Example:\n  cofferdam approvals watch assistant")]
    Watch {
        /// The sandbox
        name: String,
        /// Print JSON, one object a line
        #[arg(long)]
        json: bool,
    },
}

/// Which question is answered.
#[derive(Debug, Args)]
pub struct AnswerArgs {
    /// Its id, as `approvals list` has it
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
