//! Who runs this node, for its log lines.

/// Names from the settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// Stands where a line knows no other tenant.
    pub tenant: Option<String>,
    pub organization: Option<String>,
}
