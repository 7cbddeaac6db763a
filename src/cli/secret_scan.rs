//! Flags about secrets in layers.

use clap::{Args, ValueEnum};

use crate::build::SecretScan;

/// Whether layers are looked through for keys, tokens and passwords.
#[derive(Args, Debug, Default)]
pub(super) struct SecretScanArgs {
    /// Look for keys, tokens and passwords in new layers: auto (where they are pushed or written to an archive),
    /// always, never
    #[arg(
        long = "scan-secrets",
        value_enum,
        value_name = "WHEN",
        default_value = "auto",
        help_heading = "Output"
    )]
    pub scan_secrets: When,
    /// Fail, with exit code 12, before a layer with a secret leaves
    #[arg(long = "fail-on-secrets", help_heading = "Output")]
    pub fail_on_secrets: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum When {
    #[default]
    Auto,
    Always,
    Never,
}

impl From<When> for SecretScan {
    fn from(when: When) -> Self {
        match when {
            When::Auto => SecretScan::WhenLeaving,
            When::Always => SecretScan::Always,
            When::Never => SecretScan::Never,
        }
    }
}
