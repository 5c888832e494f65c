//! From the claims of a token to a user: by the names of claims, or by expressions in CEL over
//! `claims`; rules over `claims` and `user` may still refuse.

use api::cel::{Environment, Expression};
use api::field::{ErrorList, FieldError};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::request::User;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Declared {
    #[serde(default)]
    claim_validation_rules: Vec<DeclaredRule>,
    #[serde(default)]
    claim_mappings: DeclaredMappings,
    #[serde(default)]
    user_validation_rules: Vec<DeclaredRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[derive(Default)]
struct DeclaredRule {
    claim: String,
    required_value: String,
    expression: String,
    message: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct DeclaredMappings {
    username: ClaimOrExpression,
    groups: ClaimOrExpression,
    uid: ClaimOrExpression,
    extra: Vec<DeclaredExtra>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ClaimOrExpression {
    claim: String,
    prefix: Option<String>,
    expression: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct DeclaredExtra {
    key: String,
    value_expression: String,
}

/// Where something of a user comes from.
#[derive(Debug)]
enum Source {
    Claim { name: String, prefix: String },
    Expression(Expression),
}

/// A condition, with what is said when it does not hold.
#[derive(Debug)]
struct Rule {
    expression: Expression,
    message: String,
}

/// The compiled mappings of an issuer.
#[derive(Debug)]
pub(super) struct Mappings {
    username: Source,
    groups: Option<Source>,
    uid: Option<Source>,
    extra: Vec<(String, Expression)>,
    /// Claims that must have a value.
    required: Vec<(String, String)>,
    claim_rules: Vec<Rule>,
    user_rules: Vec<Rule>,
}

/// Compiles, and gathers what is wrong.
struct Compiler {
    errors: ErrorList,
}

impl Compiler {
    fn wrong(&mut self, e: FieldError) {
        self.errors.push(e);
    }

    fn expression(&mut self, text: &str, variable: &str, field: String) -> Option<Expression> {
        match Expression::compile(text, &[variable]) {
            Ok(e) => Some(e),
            Err(why) => {
                self.wrong(FieldError::invalid(field, text, why));
                None
            }
        }
    }

    fn source(&mut self, declared: &ClaimOrExpression, field: &str, has_prefix: bool) -> Option<Source> {
        match (declared.claim.as_str(), declared.expression.as_str()) {
            ("", "") => None,
            ("", text) => {
                if let Some(prefix) = &declared.prefix {
                    let why = "may not be specified when expression is set";
                    self.wrong(FieldError::invalid(format!("{field}.prefix"), prefix.as_str(), why));
                }
                self.expression(text, "claims", format!("{field}.expression")).map(Source::Expression)
            }
            (name, "") => {
                if has_prefix && declared.prefix.is_none() {
                    let why =
                        "prefix is required when claim is set. It can be set to an empty string to disable prefixing";
                    self.wrong(FieldError::required(format!("{field}.prefix"), why));
                }
                let prefix = declared.prefix.clone().unwrap_or_default();
                Some(Source::Claim { name: name.to_owned(), prefix })
            }
            _ => {
                self.wrong(FieldError::invalid(field, "", "claim and expression can't both be set"));
                None
            }
        }
    }

    fn claim_rules(&mut self, rules: &[DeclaredRule], path: &str) -> (Vec<(String, String)>, Vec<Rule>) {
        let (mut required, mut compiled) = (Vec::new(), Vec::new());
        for (i, rule) in rules.iter().enumerate() {
            let field = format!("{path}.claimValidationRules[{i}]");
            let invalid = |f: &str, value: &str, why: &str| FieldError::invalid(format!("{field}.{f}"), value, why);
            match (rule.claim.as_str(), rule.expression.as_str()) {
                ("", "") => self.wrong(FieldError::required(field, "claim or expression is required")),
                (claim, "") => {
                    if !rule.message.is_empty() {
                        self.wrong(invalid("message", &rule.message, "may not be specified when claim is set"));
                    }
                    if rules[..i].iter().any(|r| r.claim == claim) {
                        self.wrong(FieldError::duplicate(format!("{field}.claim"), claim));
                    }
                    required.push((claim.to_owned(), rule.required_value.clone()));
                }
                ("", text) => {
                    if !rule.required_value.is_empty() {
                        let why = "may not be specified when expression is set";
                        self.wrong(invalid("requiredValue", &rule.required_value, why));
                    }
                    compiled.extend(self.rule(rules, i, text, "claims", &field));
                }
                (claim, _) => {
                    self.wrong(FieldError::invalid(field, claim, "claim and expression can't both be set"));
                }
            }
        }
        (required, compiled)
    }

    fn user_rules(&mut self, rules: &[DeclaredRule], path: &str) -> Vec<Rule> {
        let mut compiled = Vec::new();
        for (i, rule) in rules.iter().enumerate() {
            let field = format!("{path}.userValidationRules[{i}]");
            if rule.expression.is_empty() {
                self.wrong(FieldError::required(format!("{field}.expression"), ""));
            } else {
                compiled.extend(self.rule(rules, i, &rule.expression, "user", &field));
            }
        }
        compiled
    }

    fn rule(&mut self, rules: &[DeclaredRule], i: usize, text: &str, variable: &str, field: &str) -> Option<Rule> {
        let field = format!("{field}.expression");
        if rules[..i].iter().any(|r| r.expression == text) {
            self.wrong(FieldError::duplicate(field, text));
            return None;
        }
        let expression = self.expression(text, variable, field)?;
        Some(Rule { expression, message: rules[i].message.clone() })
    }

    fn extra(&mut self, extra: &[DeclaredExtra], path: &str) -> Vec<(String, Expression)> {
        let mut compiled = Vec::new();
        for (i, e) in extra.iter().enumerate() {
            let field = |f: &str| format!("{path}.claimMappings.extra[{i}].{f}");
            let key = e.key.as_str();
            let domain = key.split_once('/').filter(|(domain, rest)| !domain.is_empty() && !rest.is_empty());
            let why = match domain {
                None if key.is_empty() => Some("must be a domain-prefixed path (such as \"acme.io/foo\")"),
                None => Some("must be a domain-prefixed path (such as \"acme.io/foo\")"),
                Some((d, _)) if api::names::dns1123_subdomain(d).is_some() => {
                    Some("its domain must be a DNS subdomain")
                }
                Some((d, _))
                    if ["kubernetes.io", "k8s.io"].iter().any(|r| d == *r || d.ends_with(&format!(".{r}"))) =>
                {
                    Some("k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use")
                }
                Some(_) if key != key.to_lowercase() => Some("must be lowercase"),
                Some(_) => None,
            };
            if let Some(why) = why {
                self.wrong(FieldError::invalid(field("key"), key, why));
            }
            if extra[..i].iter().any(|o| o.key == key) {
                self.wrong(FieldError::duplicate(field("key"), key));
            } else if e.value_expression.is_empty() {
                self.wrong(FieldError::required(field("valueExpression"), ""));
            } else if let Some(x) = self.expression(&e.value_expression, "claims", field("valueExpression")) {
                compiled.push((e.key.clone(), x));
            }
        }
        compiled
    }
}

/// Whether an expression's text selects a claim.
fn uses(text: &str, claim: &str) -> bool {
    [format!("claims.{claim}"), format!("claims.?{claim}")].iter().any(|selected| {
        text.match_indices(selected.as_str()).any(|(at, _)| {
            let next = text[at + selected.len()..].chars().next();
            !next.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_')
        })
    })
}

impl Mappings {
    /// Compiles a declaration, which stands at `path`.
    pub(super) fn new(declared: Declared, path: &str) -> Result<Mappings, ErrorList> {
        let mut c = Compiler { errors: ErrorList::new() };
        let m = &declared.claim_mappings;
        let (required, claim_rules) = c.claim_rules(&declared.claim_validation_rules, path);
        let field = |f: &str| format!("{path}.claimMappings.{f}");
        if m.username.claim.is_empty() && m.username.expression.is_empty() {
            c.wrong(FieldError::required(field("username"), "claim or expression is required"));
        }
        let username = c.source(&m.username, &field("username"), true);
        let groups = c.source(&m.groups, &field("groups"), true);
        let uid = c.source(&m.uid, &field("uid"), false);
        let extra = c.extra(&m.extra, path);
        let by = &m.username.expression;
        let others = claim_rules.iter().map(|r| r.expression.text()).chain(extra.iter().map(|e| e.1.text()));
        if uses(by, "email") && !others.chain([by.as_str()]).any(|text| uses(text, "email_verified")) {
            let why = "claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression";
            c.wrong(FieldError::invalid(field("username.expression"), by.as_str(), why));
        }
        let user_rules = c.user_rules(&declared.user_validation_rules, path);
        match username {
            Some(username) if c.errors.is_empty() => {
                Ok(Mappings { username, groups, uid, extra, required, claim_rules, user_rules })
            }
            _ => Err(c.errors),
        }
    }

    /// The user that verified claims name.
    ///
    /// # Errors
    /// What is missing, or which rule does not hold.
    pub(super) fn user_of(&self, claims: &Value) -> Result<User, String> {
        let mut environment = Environment::default();
        environment.bind("claims", claims);
        let mut user = User {
            name: self.username(claims, &environment)?,
            groups: self.groups(claims, &environment)?,
            uid: self.uid(claims, &environment)?,
            ..Default::default()
        };
        for (key, expression) in &self.extra {
            let told = |e: String| format!("oidc: error evaluating extra claim expression: {}: {e}", expression.text());
            let values = expression.json(&environment).and_then(|v| strings(&v)).map_err(told)?;
            if !values.is_empty() {
                user.extra.insert(key.clone(), values);
            }
        }
        for (claim, wanted) in &self.required {
            let got =
                claims.get(claim).ok_or_else(|| format!("oidc: required claim {claim} not present in ID token"))?;
            let got = got.as_str().ok_or_else(|| format!("oidc: parse claim {claim}: it is no string"))?;
            if got != wanted {
                let why = format!("value does not match. Got = {got}, want = {wanted}");
                return Err(format!("oidc: required claim {claim} {why}"));
            }
        }
        let told = |e| format!("oidc: error evaluating claim validation expression: {e}");
        hold(&self.claim_rules, &environment).map_err(told)?;
        if !self.user_rules.is_empty() {
            let mut environment = Environment::default();
            let known = json!({"username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra});
            environment.bind("user", &known);
            let told = |e| format!("oidc: error evaluating user info validation rule: {e}");
            hold(&self.user_rules, &environment).map_err(told)?;
        }
        Ok(user)
    }

    fn username(&self, claims: &Value, environment: &Environment) -> Result<String, String> {
        let (name, prefix) = match &self.username {
            Source::Claim { name, prefix } => (name, prefix),
            Source::Expression(e) => {
                return evaluated(e, environment, "username");
            }
        };
        let text = text_of(claims, name).map_err(|e| format!("oidc: parse username claims {name:?}: {e}"))?;
        if name == "email" && claims.get("email_verified").is_some_and(|v| *v != true) {
            return Err("oidc: email not verified".to_owned());
        }
        Ok(format!("{prefix}{text}"))
    }

    fn groups(&self, claims: &Value, environment: &Environment) -> Result<Vec<String>, String> {
        match &self.groups {
            None => Ok(Vec::new()),
            Some(Source::Claim { name, prefix }) => {
                let Some(value) = claims.get(name) else { return Ok(Vec::new()) };
                let told = |e| format!("oidc: parse groups claim {name:?}: {e}");
                Ok(strings(value).map_err(told)?.iter().map(|g| format!("{prefix}{g}")).collect())
            }
            Some(Source::Expression(e)) => {
                let told = |e| format!("oidc: error evaluating group claim expression: {e}");
                e.json(environment).and_then(|v| strings(&v)).map_err(told)
            }
        }
    }

    fn uid(&self, claims: &Value, environment: &Environment) -> Result<String, String> {
        match &self.uid {
            None => Ok(String::new()),
            Some(Source::Claim { name, .. }) => {
                text_of(claims, name).map_err(|e| format!("oidc: parse uid claim {name:?}: {e}"))
            }
            Some(Source::Expression(e)) => evaluated(e, environment, "uid"),
        }
    }
}

fn evaluated(expression: &Expression, environment: &Environment, what: &str) -> Result<String, String> {
    let told = |e: String| format!("oidc: error evaluating {what} claim expression: {e}");
    match expression.json(environment).map_err(told)? {
        Value::String(s) => Ok(s),
        _ => Err(told(format!("{what} claim expression must return a string"))),
    }
}

fn text_of(claims: &Value, name: &str) -> Result<String, &'static str> {
    let claim = claims.get(name).ok_or("claim not present")?;
    claim.as_str().map(str::to_owned).ok_or("it is no string")
}

/// A string or a list of strings; empty ones count as absent.
fn strings(value: &Value) -> Result<Vec<String>, String> {
    const WRONG: &str = "expression must return a string or a list of strings";
    let all = match value {
        Value::Null => Vec::new(),
        Value::String(s) => vec![s.clone()],
        Value::Array(list) => {
            let one = |v: &Value| v.as_str().map(str::to_owned).ok_or_else(|| WRONG.to_owned());
            list.iter().map(one).collect::<Result<_, _>>()?
        }
        _ => return Err(WRONG.to_owned()),
    };
    Ok(all.into_iter().filter(|s| !s.is_empty()).collect())
}

fn hold(rules: &[Rule], environment: &Environment) -> Result<(), String> {
    for rule in rules {
        match rule.expression.json(environment)? {
            Value::Bool(true) => {}
            Value::Bool(false) => {
                return Err(format!("validation expression '{}' failed: {}", rule.expression.text(), rule.message));
            }
            _ => return Err("validation expression must return a boolean".to_owned()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mappings(declared: Value) -> Mappings {
        Mappings::new(serde_json::from_value(declared).unwrap(), "jwt[0]").unwrap()
    }

    #[test]
    fn claims_become_a_user() {
        let by_claims = mappings(json!({"claimMappings": {
            "username": {"claim": "sub", "prefix": "x:"}, "groups": {"claim": "roles", "prefix": "g:"},
            "uid": {"claim": "id"}}}));
        let user = by_claims.user_of(&json!({"sub": "ann", "roles": "a", "id": "1"})).unwrap();
        assert_eq!((user.name.as_str(), &user.groups[..], user.uid.as_str()), ("x:ann", &["g:a".to_owned()][..], "1"));
        let user = by_claims.user_of(&json!({"sub": "ann", "roles": ["a", "b"], "id": "1"})).unwrap();
        assert_eq!(user.groups, ["g:a", "g:b"]);
        let said = by_claims.user_of(&json!({"id": "1"})).unwrap_err();
        assert_eq!(said, r#"oidc: parse username claims "sub": claim not present"#);

        let by_expressions = mappings(json!({
            "claimMappings": {
                "username": {"expression": "'x:' + claims.sub"},
                "groups": {"expression": "claims.roles.split(',')"},
                "uid": {"expression": "string(claims.id)"},
                "extra": [{"key": "acme.com/team", "valueExpression": "claims.?team.orValue('')"}]},
            "claimValidationRules": [{"claim": "hd", "requiredValue": "acme"},
                {"expression": "claims.exp - claims.iat <= 3600", "message": "too long"}],
            "userValidationRules": [{"expression": "!user.username.startsWith('system:')", "message": "reserved"}]}));
        let claims = |change: Value| {
            let mut all =
                json!({"sub": "ann", "roles": "a,b", "id": 7, "team": "t", "hd": "acme", "exp": 20, "iat": 10});
            all.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            by_expressions.user_of(&all)
        };
        let user = claims(json!({})).unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str(), user.groups.len()), ("x:ann", "7", 2));
        assert_eq!(user.extra["acme.com/team"], ["t"]);
        assert!(claims(json!({"team": ""})).unwrap().extra.is_empty());
        let said = claims(json!({"hd": "other"})).unwrap_err();
        assert_eq!(said, "oidc: required claim hd value does not match. Got = other, want = acme");
        assert!(claims(json!({"exp": 5000})).unwrap_err().ends_with("failed: too long"));
    }

    #[test]
    fn rules_see_the_user_and_emails_must_be_verified() {
        let by_email = mappings(json!({"claimMappings": {"username": {"claim": "email", "prefix": ""}},
            "userValidationRules": [{"expression": "!user.username.startsWith('system:')", "message": "reserved"}]}));
        assert!(by_email.user_of(&json!({"email": "a@b"})).is_ok());
        let said = by_email.user_of(&json!({"email": "a@b", "email_verified": false})).unwrap_err();
        assert_eq!(said, "oidc: email not verified");
        let said = by_email.user_of(&json!({"email": "system:a"})).unwrap_err();
        assert!(
            said.contains("oidc: error evaluating user info validation rule") && said.contains("reserved"),
            "{said}"
        );
    }
}
