//! What is amiss behind us, in one form: found, explained, and with the command that repairs it.
//!
//! Owns [`Finding`] and its words' shape; [`board`] keeps what stands at the moment. Whoever checks
//! something (the watcher, the lint, the follower of Sentinels) makes findings from what it has
//! read, in functions without I/O, and puts them on the board. Never repairs anything: the proxy
//! changes no server's configuration.
//!
//! What surprises: a check that could not be made is a finding too ([`Severity::NotChecked`]). A
//! server that forbids CONFIG is not *fine*, it is unknown, and whoever is on call must see which
//! of the two it is.

pub mod board;
pub mod page;

pub use board::Board;

/// Something that is amiss, or that could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// What kind it is: a fixed word in `snake_case`, on which alert rules may rely.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: a node, a Sentinel group, a slot. Never a key or a user's name (INV-11).
    pub subject: String,
    /// What was seen and why it matters, in a sentence or two, with the numbers.
    pub text: String,
    /// The command or the step that repairs it.
    pub repair: String,
}

/// How bad a finding is; the order is that of urgency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The check could not be made; the text says why.
    NotChecked,
    /// Worth knowing; nobody need get up.
    Info,
    /// Will hurt under load or with the next failure: in working hours.
    Warning,
    /// Hurts now, or turns the next failure into an outage: at once.
    Critical,
}

// === impl Finding ===

impl Finding {
    /// A finding that hurts now, or with the next failure.
    #[must_use]
    pub fn critical(id: &'static str, subject: &str, text: String, repair: String) -> Self {
        Self { id, severity: Severity::Critical, subject: subject.into(), text, repair }
    }

    /// A finding that can wait until the morning.
    #[must_use]
    pub fn warning(id: &'static str, subject: &str, text: String, repair: String) -> Self {
        Self { id, severity: Severity::Warning, subject: subject.into(), text, repair }
    }

    /// A finding that is only worth knowing.
    #[must_use]
    pub fn info(id: &'static str, subject: &str, text: String, repair: String) -> Self {
        Self { id, severity: Severity::Info, subject: subject.into(), text, repair }
    }

    /// The check `id` could not be made on `subject`, for the reason given; `repair` says what
    /// would make it possible.
    #[must_use]
    pub fn not_checked(id: &'static str, subject: &str, reason: &str, repair: &str) -> Self {
        let text = format!("not checked: {reason}");
        let severity = Severity::NotChecked;
        Self { id, severity, subject: subject.into(), text, repair: repair.into() }
    }

    /// Whether `other` is the same finding, maybe with newer numbers in its words.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (self.id, self.severity, &self.subject) == (other.id, other.severity, &other.subject)
    }
}

// === impl Severity ===

impl Severity {
    /// Every severity, the most urgent last.
    pub const ALL: [Self; 4] = [Self::NotChecked, Self::Info, Self::Warning, Self::Critical];

    /// The label of metrics and pages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotChecked => "not_checked",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}
