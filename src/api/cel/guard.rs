//! Expressions come from clients. Parser and interpreter are recursive, and the parser's levels are
//! large: what nests deeper than upstream allows is refused before it is parsed. Where they panic,
//! the expression has failed, not the request.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Parser, Syntax};

/// As upstream's parser.
const NESTING_MAX: usize = 250;
/// As upstream's parser, in code points.
const SIZE_MAX: usize = 100_000;
/// What any stack has room for.
const SHALLOW: usize = 8;
/// A level takes 16 KiB of stack in the parser, without optimization 160.
const PARSER_STACK: usize = 64 << 20;

const PANICKED: &str = "internal error: the interpreter panicked";

/// One bracket that is open, or the whole: the most that nests in it, as far as it was read.
#[derive(Default)]
struct Level {
    /// Conditions, which nest to the right.
    conditions: usize,
    /// Operators since the last `&&`, `||` or comma, which nest to the left.
    operators: usize,
    /// Selections since the last operator, and the most there were.
    selections: usize,
    selections_max: usize,
}

impl Level {
    fn depth(&self) -> usize {
        1 + self.conditions + self.operators + self.selections.max(self.selections_max)
    }

    fn operator(&mut self) {
        self.operators += 1;
        self.selections_max = self.selections_max.max(self.selections);
        self.selections = 0;
    }

    fn term(&mut self) {
        (self.operators, self.selections, self.selections_max) = (0, 0, 0);
    }
}

/// What follows a string that begins with this quote.
fn behind_string(text: &[u8], raw: bool) -> &[u8] {
    let quote = text[0];
    let triple = text.starts_with(&[quote; 3]);
    let end: &[u8] = if triple { &[quote; 3] } else { &[quote] };
    let mut rest = &text[end.len()..];
    while !rest.is_empty() && !rest.starts_with(end) {
        let step = if rest[0] == b'\\' && !raw { 2 } else { 1 };
        rest = rest.get(step..).unwrap_or_default();
    }
    rest.get(end.len()..).unwrap_or_default()
}

/// The deepest that an expression may nest; whether it is one is not looked at.
fn depth(text: &str) -> usize {
    let (mut levels, mut outer, mut most) = (vec![Level::default()], 0, 1);
    let (mut rest, mut before) = (text.as_bytes(), b' ');
    while let Some((&c, after)) = rest.split_first() {
        let open = levels.len() > 1;
        let Some(level) = levels.last_mut() else { break };
        let mut next = after;
        match c {
            b'"' | b'\'' => next = behind_string(rest, before.eq_ignore_ascii_case(&b'r')),
            b'/' if after.starts_with(b"/") => {
                next = after.iter().position(|b| *b == b'\n').map_or(&[][..], |end| &after[end..]);
            }
            b'(' | b'[' | b'{' => {
                level.selections += 1;
                outer += level.depth();
                levels.push(Level::default());
            }
            b')' | b']' | b'}' if open => {
                levels.pop();
                outer -= levels.last().map_or(0, Level::depth);
            }
            b',' => *level = Level::default(),
            b'&' | b'|' => level.term(),
            b'?' => {
                level.term();
                level.conditions += 1;
            }
            b'.' => level.selections += 1,
            b'=' | b'!' | b'<' | b'>' => {
                level.operator();
                next = after.strip_prefix(b"=").unwrap_or(after);
            }
            b'+' | b'-' | b'*' | b'/' | b'%' => level.operator(),
            // `in`, the only operator that is a word.
            b'n' if before == b'i' && !after.first().is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_') => {
                level.operator();
            }
            _ => {}
        }
        most = most.max(outer + levels.last().map_or(0, Level::depth));
        (rest, before) = (next, c);
    }
    most
}

/// Refuses what is too large or nests too deeply.
pub(crate) fn check(text: &str) -> Result<(), String> {
    let size = text.chars().count();
    if size > SIZE_MAX {
        return Err(format!("expression code point size exceeds limit: size: {size}, limit {SIZE_MAX}"));
    }
    if depth(text) > NESTING_MAX {
        return Err(format!("expression recursion limit exceeded: {NESTING_MAX}"));
    }
    Ok(())
}

/// Does what parses these expressions, on a stack that they fit on.
///
/// # Errors
/// That it panicked, or that there is no such stack.
pub(crate) fn with_room_for<'t, T: Send>(
    texts: impl IntoIterator<Item = &'t str>,
    work: impl FnOnce() -> T + Send,
) -> Result<T, String> {
    let work = || caught(work);
    if texts.into_iter().all(|text| depth(text) <= SHALLOW) {
        return work();
    }
    std::thread::scope(|s| {
        let thread = std::thread::Builder::new().name("cel".into()).stack_size(PARSER_STACK);
        match thread.spawn_scoped(s, work).map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(done)) => done,
            Ok(done) => done.unwrap_or_else(|_| Err(PANICKED.to_owned())),
            Err(e) => Err(format!("no thread to read an expression on: {e}")),
        }
    })
}

/// Does what may panic.
///
/// # Errors
/// That it did; the log says how.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| PANICKED.to_owned())
}

/// Parses an expression.
///
/// # Errors
/// Why it is none, or cannot be read.
pub(crate) fn parse(text: &str) -> Result<Syntax, String> {
    check(text)?;
    let parse = || Parser::new().enable_optional_syntax(true).parse(text).map_err(|e| e.to_string());
    with_room_for([text], parse)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nests_is_counted_and_what_follows_is_not() {
        for (text, expected) in [
            ("a", 1),
            ("a.b.c", 3),
            ("a || b || c.d && e", 2),
            ("((1))", 5),
            ("1 + 2 + 3", 3),
            ("f(a, b, c)", 3),
            ("'((((' + \"a\\\"((((\" + r'\\' + '''(' ( '''", 4),
            ("a // ((((\n + b", 2),
            ("x in [1] ? 2 : 3", 4),
        ] {
            assert_eq!(depth(text), expected, "{text}");
        }
        let rule = "self.spec.containers.all(c, c.image.startsWith('a:') && (!has(c.ports) || c.ports.exists(p, p.port == 80)))";
        assert!(depth(rule) < 25, "{}", depth(rule));
        let many = vec!["self.x == 'a'"; 2_000].join(" || ");
        assert!(check(&many).is_ok() && depth(&many) <= 4);
    }
}
