//! How the seats of the server are divided among the levels for a while: each gets what its demand
//! is of all demand, between what it keeps and what it may borrow
//! (upstream: `conc_alloc.go` and `updateBorrowing` of `apf_controller.go`).

use super::demand::Figures;

/// A level without demand counts for so much, so that nothing is divided by zero.
const LEAST_TARGET: f64 = 0.001;
const EPSILON: f64 = 1e-7;

/// What a level has a right to, and what it could use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub(super) exempt: bool,
    pub(super) nominal: u64,
    pub(super) least: u64,
    pub(super) most: u64,
    pub(super) demand: Figures,
    /// What it has now.
    pub(super) current: u64,
}

impl Claim {
    /// What it must get if all can be served: what it used, or keeps, but not what it borrowed.
    fn floor(&self) -> u64 {
        let used = if self.exempt { self.demand.high } else { self.demand.high.min(self.nominal) };
        used.max(self.least)
    }

    pub(super) fn target(&self) -> f64 {
        self.demand.smoothed.max(self.floor() as f64)
    }
}

/// The seats of each level, and which part of its demand every level gets that can use it.
pub(super) fn allocate(claims: &[Claim]) -> (Vec<u64>, f64) {
    let total: u64 = claims.iter().map(|c| c.nominal).sum();
    let of =
        |exempt: bool, what: fn(&Claim) -> u64| -> u64 { claims.iter().filter(|c| c.exempt == exempt).map(what).sum() };
    let left = total.saturating_sub(of(true, Claim::floor));
    let (least, floors) = (of(false, |c| c.least), of(false, Claim::floor));
    let each = |limited: &dyn Fn(&Claim) -> u64| {
        claims.iter().map(|c| if c.exempt { c.floor() } else { limited(c) }).collect::<Vec<u64>>()
    };
    if left <= least {
        return (each(&|c| c.least), 0.0);
    }
    if left <= floors {
        let share = (left - least) as f64 / (floors - least) as f64;
        return (each(&|c| c.least + ((c.floor() - c.least) as f64 * share).round() as u64), 0.0);
    }
    let limited: Vec<&Claim> = claims.iter().filter(|c| !c.exempt).collect();
    match fair(total as f64, &limited) {
        Some(part) => (each(&|c| given(c, part).round() as u64), part),
        None => (each(&|c| c.current), 0.0),
    }
}

fn given(c: &Claim, part: f64) -> f64 {
    let (floor, most) = (c.floor() as f64, (c.most as f64).max(c.floor() as f64));
    (c.target().max(LEAST_TARGET) * part).clamp(floor, most)
}

/// The part of their targets that makes the levels' seats so many; `None` where no part does.
fn fair(required: f64, claims: &[&Claim]) -> Option<f64> {
    let sum = |part: f64| claims.iter().map(|c| given(c, part)).sum::<f64>();
    // Between the parts at which a level meets one of its bounds the sum grows evenly.
    let mut bends: Vec<f64> = claims
        .iter()
        .flat_map(|c| [c.floor(), c.most].map(|bound| bound as f64 / c.target().max(LEAST_TARGET)))
        .collect();
    bends.sort_by(f64::total_cmp);
    let to = *bends.iter().find(|b| sum(**b) >= required - EPSILON)?;
    let from = bends.iter().copied().take_while(|b| *b < to).last().unwrap_or(0.0);
    let (low, high) = (sum(from), sum(to));
    if low > required + EPSILON {
        return None;
    }
    Some(if high - low > EPSILON { from + (required - low) * (to - from) / (high - low) } else { to })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(nominal: u64, least: u64, most: u64, high: u64, smoothed: f64) -> Claim {
        let demand = Figures { high, smoothed, ..Figures::default() };
        Claim { exempt: false, nominal, least, most, demand, current: nominal }
    }

    #[test]
    fn a_busy_level_gets_what_idle_ones_lend_up_to_its_limit() {
        let idle = claim(100, 20, 300, 0, 0.0);
        assert_eq!(allocate(&[claim(100, 50, 300, 500, 500.0), idle]).0, [180, 20]);
        assert_eq!(allocate(&[claim(100, 50, 150, 500, 500.0), idle]).0, [150, 50]);
    }

    #[test]
    fn levels_that_are_both_busy_get_the_same_part_of_their_demand() {
        let (seats, part) = allocate(&[claim(100, 50, 300, 90, 300.0), claim(100, 50, 300, 60, 100.0)]);
        assert_eq!((seats, part), (vec![140, 60], 140.0 / 300.0));
        // But none gets less than it used of its own.
        assert_eq!(allocate(&[claim(100, 50, 300, 100, 900.0), claim(100, 50, 300, 100, 100.0)]).0, [100, 100]);
    }

    #[test]
    fn what_is_exempt_takes_from_the_others_and_leaves_them_what_they_keep() {
        let exempt = |high| Claim { exempt: true, ..claim(0, 0, 200, high, high as f64) };
        let others = [claim(100, 40, 300, 100, 100.0), claim(100, 0, 300, 100, 100.0)];
        assert_eq!(allocate(&[exempt(500), others[0], others[1]]).0, [500, 40, 0]);
        assert_eq!(allocate(&[exempt(80), others[0], others[1]]).0, [80, 70, 50]);
    }

    #[test]
    fn what_cannot_be_divided_stays() {
        let narrow = Claim { current: 7, ..claim(100, 0, 50, 0, 0.0) };
        assert_eq!(allocate(&[narrow]).0, [7]);
    }
}
