//! Match conditions: all must hold for a webhook or policy to be about a write.

use api::cel::{Environment, Expression};
use serde::Deserialize;

/// A condition as it is declared.
#[derive(Debug, Deserialize)]
pub(crate) struct Declared {
    expression: String,
}

/// The compiled conditions.
#[derive(Debug)]
pub(crate) struct Conditions(Vec<Expression>);

impl Conditions {
    /// Compiles conditions that may use the `declared` variables beside the object and the request.
    pub(crate) fn new(conditions: &[Declared], declared: &[&str]) -> Result<Conditions, String> {
        let compile = |c: &Declared| Expression::compile(&c.expression, declared);
        Ok(Conditions(conditions.iter().map(compile).collect::<Result<_, _>>()?))
    }

    /// Conditions that are compiled already.
    pub(crate) fn of(conditions: Vec<Expression>) -> Conditions {
        Conditions(conditions)
    }

    /// Whether there is nothing to ask.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all hold. One that does not outweighs those that cannot be evaluated.
    pub(crate) fn hold(&self, environment: &Environment) -> Result<bool, String> {
        let mut errors = Vec::new();
        for c in &self.0 {
            match c.holds(environment) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(e) => errors.push(e),
            }
        }
        match errors.as_slice() {
            [] => Ok(true),
            [one] => Err(one.clone()),
            all => Err(format!("[{}]", all.join(", "))),
        }
    }
}
