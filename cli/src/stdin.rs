//! Standard input beside a prompt.
