//! `resource.Quantity`: exact decimal amounts with binary and decimal suffixes.
//!
//! Kept as a whole number of billionths, which is upstream's finest scale; anything finer is
//! rounded away from zero, anything beyond 2^63-1 is cut to that, as upstream does.

use std::cmp::Ordering;

use serde_json::Value;

const NANO: i128 = 1_000_000_000;
const MAX: i128 = (i64::MAX as i128) * NANO;
pub(crate) const WRONG: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
const WRONG_NUMBER: &str = "unable to parse numeric part of quantity";
const WRONG_SUFFIX: &str = "unable to parse quantity's suffix";

/// How an amount is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `12e6`
    DecimalExponent,
    /// `12Mi`
    BinarySI,
    /// `12M`
    #[default]
    DecimalSI,
}

/// An amount of a resource.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

enum Scale {
    Ten(i32),
    Two(u32),
}

fn scale(suffix: &str) -> Option<(Scale, Format)> {
    let ten = |e| Some((Scale::Ten(e), Format::DecimalSI));
    let two = |e| Some((Scale::Two(e), Format::BinarySI));
    match suffix {
        "" => ten(0),
        "n" => ten(-9),
        "u" => ten(-6),
        "m" => ten(-3),
        "k" => ten(3),
        "M" => ten(6),
        "G" => ten(9),
        "T" => ten(12),
        "P" => ten(15),
        "E" => ten(18),
        "Ki" => two(10),
        "Mi" => two(20),
        "Gi" => two(30),
        "Ti" => two(40),
        "Pi" => two(50),
        "Ei" => two(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let exponent: i32 = exponent.strip_prefix('+').unwrap_or(exponent).parse().ok()?;
            Some((Scale::Ten(exponent), Format::DecimalExponent))
        }
    }
}

impl Quantity {
    /// Reads an amount.
    ///
    /// # Errors
    /// Upstream's message.
    pub fn parse(text: &str) -> Result<Quantity, String> {
        let (negative, rest) = match text.as_bytes().first() {
            None => return Err(WRONG.into()),
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        if number.is_empty() || !suffix_has_the_form(suffix) {
            return Err(WRONG.into());
        }
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(WRONG_NUMBER.into());
        }
        let (scale, mut format) = scale(suffix).ok_or(WRONG_SUFFIX)?;
        let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|b| b - b'0').collect();
        // The amount is digits * 10^power * 2^shift, in billionths.
        let (power, shift) = match scale {
            Scale::Ten(e) => (i64::from(e) + 9 - fraction.len() as i64, 0),
            Scale::Two(e) => (9 - fraction.len() as i64, e),
        };
        let nanos = magnitude(&digits, power, shift);
        if format == Format::BinarySI && !negative && nanos > 0 && nanos < NANO {
            // As upstream, to avoid rounding and confusion.
            format = Format::DecimalSI;
        }
        Ok(Quantity { nanos: if negative { -nanos } else { nanos }, format })
    }

    /// Reads a string or a number.
    ///
    /// # Errors
    /// Upstream's message.
    pub fn from_value(value: &Value) -> Result<Quantity, String> {
        match value {
            Value::String(s) => Quantity::parse(s),
            Value::Number(n) => Quantity::parse(&n.to_string()),
            _ => Err(WRONG.into()),
        }
    }

    /// Reads the typed form.
    ///
    /// # Errors
    /// Upstream's message.
    pub fn from_meta(quantity: &crate::meta::api::resource::Quantity) -> Result<Quantity, String> {
        Quantity::parse(&quantity.0)
    }

    /// The amount in whole thousandths, rounded away from zero.
    pub fn rounded_up_to_milli(self) -> Quantity {
        const MILLI: i128 = NANO / 1000;
        let rest = self.nanos % MILLI;
        let up = if rest == 0 { 0 } else { MILLI * self.nanos.signum() - rest };
        Quantity { nanos: self.nanos + up, format: self.format }
    }

    /// A whole amount.
    pub fn from_int(value: i64, format: Format) -> Quantity {
        Quantity { nanos: i128::from(value) * NANO, format }
    }

    /// An amount in thousandths.
    pub fn from_milli(value: i64, format: Format) -> Quantity {
        Quantity { nanos: i128::from(value) * (NANO / 1000), format }
    }

    /// The amount, rounded away from zero.
    pub fn value(self) -> i64 {
        self.rounded(NANO)
    }

    /// The amount in thousandths, rounded away from zero.
    pub fn milli_value(self) -> i64 {
        self.rounded(NANO / 1000)
    }

    fn rounded(self, unit: i128) -> i64 {
        let up = if self.nanos % unit == 0 { 0 } else { self.nanos.signum() };
        (self.nanos / unit + up).clamp(i64::MIN.into(), i64::MAX.into()) as i64
    }

    /// The amount as a float.
    pub fn as_f64(self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    /// The amount in billionths.
    pub fn nanos(self) -> i128 {
        self.nanos
    }

    /// How it is written.
    pub fn format(self) -> Format {
        self.format
    }

    /// Whether it is nothing.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// -1, 0 or 1.
    pub fn sign(self) -> i32 {
        self.nanos.signum() as i32
    }

    /// The negative amount.
    pub fn negated(self) -> Quantity {
        Quantity { nanos: -self.nanos, format: self.format }
    }

    fn combined(self, nanos: i128, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos, format }
    }

    fn canonical(self) -> String {
        if self.nanos == 0 {
            return "0".into();
        }
        if self.format == Format::BinarySI && self.nanos % NANO == 0 && self.nanos.abs() >= 1024 * NANO {
            let (mut number, mut power) = (self.nanos / NANO, 0);
            while number % 1024 == 0 {
                number /= 1024;
                power += 1;
            }
            return format!("{number}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power.min(6)]);
        }
        let (mut number, mut exponent) = (self.nanos, -9);
        while number % 1000 == 0 && exponent < 18 {
            number /= 1000;
            exponent += 3;
        }
        if self.format == Format::DecimalExponent {
            return if exponent == 0 { number.to_string() } else { format!("{number}e{exponent}") };
        }
        let suffix = match exponent {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            0 => "",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            _ => "E",
        };
        format!("{number}{suffix}")
    }
}

/// `[eEinumkKMGTP]*[-+]?[0-9]*`
fn suffix_has_the_form(suffix: &str) -> bool {
    let rest = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    rest.bytes().all(|b| b.is_ascii_digit())
}

/// digits * 10^power * 2^shift: rounded up to a whole number, cut to the largest amount.
fn magnitude(digits: &[u8], power: i64, shift: u32) -> i128 {
    let significant = match digits.iter().position(|d| *d != 0) {
        Some(first) => &digits[first..],
        None => return 0,
    };
    if significant.len() as i64 + power > 40 {
        return MAX;
    }
    if significant.len() as i64 + power + i64::from(shift) < 0 {
        // Less than a billionth, but something.
        return 1;
    }
    // Long division keeps this exact whatever the number of digits: multiply by 2^shift digit by
    // digit from the right, then split at the decimal point.
    let mut scaled: Vec<u8> = Vec::with_capacity(significant.len() + 20);
    let mut carry: u128 = 0;
    for digit in significant.iter().rev() {
        carry += u128::from(*digit) << shift;
        scaled.push((carry % 10) as u8);
        carry /= 10;
    }
    while carry > 0 {
        scaled.push((carry % 10) as u8);
        carry /= 10;
    }
    scaled.reverse();
    let (kept, zeros) = match power {
        p if p >= 0 => (scaled.len(), p as u32),
        p => (scaled.len().saturating_sub(p.unsigned_abs() as usize), 0),
    };
    let mut total: i128 = 0;
    for digit in &scaled[..kept] {
        total = total.saturating_mul(10).saturating_add(i128::from(*digit));
    }
    for _ in 0..zeros {
        total = total.saturating_mul(10);
    }
    if scaled[kept..].iter().any(|d| *d != 0) {
        total = total.saturating_add(1);
    }
    total.min(MAX)
}

impl std::ops::Add for Quantity {
    type Output = Quantity;
    fn add(self, other: Quantity) -> Quantity {
        self.combined(self.nanos.saturating_add(other.nanos), other)
    }
}

impl std::ops::Sub for Quantity {
    type Output = Quantity;
    fn sub(self, other: Quantity) -> Quantity {
        self.combined(self.nanos.saturating_sub(other.nanos), other)
    }
}

impl std::ops::AddAssign for Quantity {
    fn add_assign(&mut self, other: Quantity) {
        *self = *self + other;
    }
}

impl std::ops::SubAssign for Quantity {
    fn sub_assign(&mut self, other: Quantity) {
        *self = *self - other;
    }
}

/// Amounts are equal when they are as much, however they are written.
impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl std::fmt::Display for Quantity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.canonical())
    }
}

impl From<Quantity> for crate::meta::api::resource::Quantity {
    fn from(quantity: Quantity) -> Self {
        crate::meta::api::resource::Quantity(quantity.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn q(text: &str) -> Quantity {
        Quantity::parse(text).unwrap()
    }

    #[test]
    fn canonical_forms() {
        for (text, canonical) in [
            ("0", "0"),
            ("0Ki", "0"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("0.5", "500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1023", "1023"),
            ("1024", "1024"),
            ("1000", "1k"),
            ("1000Ki", "1000Ki"),
            ("512", "512"),
            ("0.5Ki", "512"),
            ("0.5Mi", "512Ki"),
            ("100e3", "100e3"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("1E", "1E"),
            ("1Ei", "1Ei"),
            ("0.1n", "1n"),
            ("-0.1n", "-1n"),
            ("+1", "1"),
            ("1.", "1"),
            (".5", "500m"),
            ("-1.5Gi", "-1536Mi"),
            ("0.001Ki", "1024m"),
            ("99999999999999999999", "9223372036854775807"),
            ("100Ei", "9223372036854775807"),
            ("1e-3", "1e-3"),
            ("12345678.123456789", "12345678123456789n"),
        ] {
            assert_eq!(q(text).to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn refusals() {
        for (text, error) in [
            ("", WRONG),
            ("abc", WRONG),
            ("1x", WRONG),
            ("-", WRONG),
            (" 1", WRONG),
            ("1 ", WRONG),
            ("1ki", WRONG_SUFFIX),
            ("1e", WRONG_SUFFIX),
            (".", WRONG_NUMBER),
            ("1.2.3", WRONG_NUMBER),
        ] {
            assert_eq!(Quantity::parse(text).unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn values_round_up() {
        assert_eq!(q("1500m").value(), 2);
        assert_eq!(q("-1500m").value(), -2);
        assert_eq!(q("1u").milli_value(), 1);
        assert_eq!(q("2").milli_value(), 2000);
        assert_eq!(q("1Gi").value(), 1 << 30);
    }

    #[test]
    fn sums_keep_the_first_format() {
        assert_eq!((q("1Gi") + q("1k")).to_string(), "1073742824");
        assert_eq!((q("0") + q("1Gi")).to_string(), "1Gi");
        assert_eq!((q("2Gi") - q("1Gi")).to_string(), "1Gi");
        assert!(q("1Gi") > q("1G") && q("1000m") == q("1"));
        assert_eq!(Quantity::from_value(&serde_json::json!(0.5)).unwrap().to_string(), "500m");
        assert_eq!(Quantity::from_value(&serde_json::json!(2)).unwrap().to_string(), "2");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(nanos in -(MAX)..MAX, format in 0..3) {
            let format = [Format::BinarySI, Format::DecimalSI, Format::DecimalExponent][format as usize];
            let quantity = Quantity { nanos, format };
            let text = quantity.to_string();
            let again = q(&text);
            prop_assert_eq!(again, quantity, "{}", text);
            prop_assert_eq!(again.to_string(), text);
        }

        #[test]
        fn parsing_never_panics(text in "[-+0-9.eEinumkKMGTP ]{0,12}") {
            let _ = Quantity::parse(&text);
        }

        #[test]
        fn sums_are_exact(a in -1_000_000_000_000i64..1_000_000_000_000, b in -1_000_000_000_000i64..1_000_000_000_000) {
            let sum = Quantity::from_milli(a, Format::DecimalSI) + Quantity::from_milli(b, Format::DecimalSI);
            prop_assert_eq!(sum, Quantity::from_milli(a + b, Format::DecimalSI));
        }
    }
}
