//! The lexer and parser of upstream's label selector language, with its messages.

use super::label::{Operator, Requirement};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Identifier,
    ClosedPar,
    Comma,
    DoesNotExist,
    Equals,
    GreaterThan,
    In,
    LessThan,
    NotEquals,
    NotIn,
    OpenPar,
    End,
}

type Item<'a> = (Token, &'a str);

fn is_special(c: u8) -> bool {
    matches!(c, b'=' | b'!' | b'(' | b')' | b',' | b'>' | b'<')
}

fn is_space(c: u8) -> bool {
    matches!(c, b' ' | b'\t' | b'\r' | b'\n')
}

fn lex(text: &str) -> Vec<Item<'_>> {
    let bytes = text.as_bytes();
    let mut items = Vec::new();
    let mut i = 0;
    while i < bytes.len() {
        let start = i;
        if is_space(bytes[i]) {
            i += 1;
        } else if is_special(bytes[i]) {
            let pair = bytes.get(i..i + 2);
            let (token, length) = match (bytes[i], pair) {
                (_, Some(b"==")) => (Token::Equals, 2),
                (_, Some(b"!=")) => (Token::NotEquals, 2),
                (b'=', _) => (Token::Equals, 1),
                (b'!', _) => (Token::DoesNotExist, 1),
                (b'(', _) => (Token::OpenPar, 1),
                (b')', _) => (Token::ClosedPar, 1),
                (b',', _) => (Token::Comma, 1),
                (b'>', _) => (Token::GreaterThan, 1),
                _ => (Token::LessThan, 1),
            };
            i += length;
            items.push((token, &text[start..i]));
        } else {
            while i < bytes.len() && !is_special(bytes[i]) && !is_space(bytes[i]) {
                i += 1;
            }
            let word = &text[start..i];
            let token = match word {
                "in" => Token::In,
                "notin" => Token::NotIn,
                _ => Token::Identifier,
            };
            items.push((token, word));
        }
    }
    items
}

struct Parser<'a> {
    items: Vec<Item<'a>>,
    at: usize,
}

impl<'a> Parser<'a> {
    /// The next token where a value may stand: `in` and `notin` are then plain words.
    fn peek(&self) -> Item<'a> {
        match self.items.get(self.at) {
            Some((Token::In | Token::NotIn, word)) => (Token::Identifier, word),
            Some(item) => *item,
            None => (Token::End, ""),
        }
    }

    fn next(&mut self) -> Item<'a> {
        let item = self.peek();
        self.at += 1;
        item
    }

    fn next_operator(&mut self) -> Item<'a> {
        let item = self.items.get(self.at).copied().unwrap_or((Token::End, ""));
        self.at += 1;
        item
    }

    fn all(&mut self) -> Result<Vec<Requirement>, String> {
        let mut found = Vec::new();
        loop {
            let (token, word) = self.peek();
            match token {
                Token::Identifier | Token::DoesNotExist => {
                    found.push(self.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?);
                    match self.next() {
                        (Token::End, _) => return Ok(found),
                        (Token::Comma, _) => {
                            let (after, word) = self.peek();
                            if !matches!(after, Token::Identifier | Token::DoesNotExist) {
                                return Err(format!("found '{word}', expected: identifier after ','"));
                            }
                        }
                        (_, word) => return Err(format!("found '{word}', expected: ',' or 'end of string'")),
                    }
                }
                Token::End => return Ok(found),
                _ => return Err(format!("found '{word}', expected: !, identifier, or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let (mut token, mut key) = self.next();
        let absent = token == Token::DoesNotExist;
        if absent {
            (token, key) = self.next();
        }
        if token != Token::Identifier {
            return Err(format!("found '{key}', expected: identifier"));
        }
        if absent {
            return Requirement::new(key, Operator::DoesNotExist, Vec::new(), false);
        }
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Requirement::new(key, Operator::Exists, Vec::new(), false);
        }
        // A bad key is reported before what follows it.
        Requirement::new(key, Operator::Exists, Vec::new(), false)?;
        let (token, word) = self.next_operator();
        match token {
            Token::In => Requirement::new(key, Operator::In, self.values()?, false),
            Token::NotIn => Requirement::new(key, Operator::NotIn, self.values()?, false),
            Token::Equals => Requirement::new(key, Operator::In, self.exact()?, true),
            Token::NotEquals => Requirement::new(key, Operator::NotIn, self.exact()?, true),
            Token::GreaterThan => Requirement::new(key, Operator::GreaterThan, self.exact()?, true),
            Token::LessThan => Requirement::new(key, Operator::LessThan, self.exact()?, true),
            _ => Err(format!("found '{word}', expected: in, notin, =, ==, !=, gt, lt")),
        }
    }

    fn exact(&mut self) -> Result<Vec<String>, String> {
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Ok(vec![String::new()]);
        }
        match self.next() {
            (Token::Identifier, word) => Ok(vec![word.to_owned()]),
            (_, word) => Err(format!("found '{word}', expected: identifier")),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        let (token, word) = self.next();
        if token != Token::OpenPar {
            return Err(format!("found '{word}' expected: '('"));
        }
        let (token, word) = self.peek();
        match token {
            Token::Identifier | Token::Comma => {
                let list = self.list()?;
                match self.next() {
                    (Token::ClosedPar, _) => Ok(list),
                    _ => Err(format!("found '{word}', expected: ')'")),
                }
            }
            Token::ClosedPar => {
                self.next();
                Ok(Vec::new())
            }
            _ => Err(format!("found '{word}', expected: ',', ')' or identifier")),
        }
    }

    fn list(&mut self) -> Result<Vec<String>, String> {
        let mut list: Vec<String> = Vec::new();
        loop {
            match self.next() {
                (Token::Identifier, word) => {
                    list.push(word.to_owned());
                    match self.peek() {
                        (Token::Comma, _) => {}
                        (Token::ClosedPar, _) => return Ok(list),
                        (_, word) => return Err(format!("found '{word}', expected: ',' or ')'")),
                    }
                }
                (Token::Comma, _) => {
                    if list.is_empty() {
                        list.push(String::new());
                    }
                    match self.peek().0 {
                        Token::ClosedPar => {
                            list.push(String::new());
                            return Ok(list);
                        }
                        Token::Comma => {
                            self.next();
                            list.push(String::new());
                        }
                        _ => {}
                    }
                }
                (_, word) => return Err(format!("found '{word}', expected: ',', or identifier")),
            }
        }
    }
}

/// Reads the whole language.
pub(super) fn requirements(text: &str) -> Result<Vec<Requirement>, String> {
    Parser { items: lex(text), at: 0 }.all()
}

#[cfg(test)]
mod tests {
    use super::super::LabelSelector;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages() {
        for (text, message) in [
            ("a=b=c", "found '=', expected: ',' or 'end of string'"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("a,", "found '', expected: identifier after ','"),
            ("=a", "found '=', expected: !, identifier, or 'end of string'"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("!", "unable to parse requirement: found '', expected: identifier"),
            (
                "a in ()",
                "unable to parse requirement: values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty",
            ),
        ] {
            assert_eq!(requirements(text).unwrap_err(), message, "{text}");
        }
        assert!(
            requirements("-a=b")
                .unwrap_err()
                .starts_with("unable to parse requirement: key: Invalid value: \"-a\": name part")
        );
        assert!(
            requirements("a=-b")
                .unwrap_err()
                .starts_with("unable to parse requirement: values[0][a]: Invalid value: \"-b\": a valid label")
        );
    }

    #[test]
    fn keywords_may_be_keys_and_values() {
        assert_eq!(LabelSelector::parse("in in (notin,in)").unwrap().to_string(), "in in (in,notin)");
        assert_eq!(LabelSelector::parse(" a in (,b) ").unwrap().to_string(), "a in (,b)");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-c=!(),<> in]{0,16}") {
            if let Ok(selector) = LabelSelector::parse(&text) {
                let again = LabelSelector::parse(&selector.to_string()).unwrap();
                prop_assert_eq!(again.to_string(), selector.to_string());
            }
        }
    }
}
