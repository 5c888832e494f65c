//! What a level could use: the seats that are taken and waited for, over time
//! (upstream: `fairqueuing/integrator.go`, `seatDemandStats` of `apf_controller.go`).

use std::time::Instant;

/// How much of the smoothed demand stays from one period to the next.
const SMOOTHING: f64 = 0.977;

/// The figures of a period.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Figures {
    /// The highest demand.
    pub(super) high: u64,
    /// Its average over time, and how far it strays from that.
    pub(super) average: f64,
    pub(super) deviation: f64,
    /// What follows a rise at once, and a fall slowly.
    pub(super) smoothed: f64,
}

/// The demand of a level.
#[derive(Debug)]
pub(super) struct SeatDemand {
    seats: f64,
    since: Instant,
    /// Of this period: its length, and the integrals of the demand and its square.
    seconds: f64,
    sum: f64,
    squares: f64,
    high: f64,
    figures: Figures,
}

impl SeatDemand {
    pub(super) fn new(now: Instant) -> SeatDemand {
        let figures = Figures::default();
        SeatDemand { seats: 0.0, since: now, seconds: 0.0, sum: 0.0, squares: 0.0, high: 0.0, figures }
    }

    /// The demand is this from now on.
    pub(super) fn set(&mut self, seats: u64, now: Instant) {
        self.integrate(now);
        self.seats = seats as f64;
        self.high = self.high.max(self.seats);
    }

    fn integrate(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.since).as_secs_f64();
        self.since = now;
        self.seconds += seconds;
        self.sum += self.seats * seconds;
        self.squares += self.seats * self.seats * seconds;
    }

    /// Ends a period.
    pub(super) fn settle(&mut self, now: Instant) -> Figures {
        self.integrate(now);
        let f = &mut self.figures;
        f.high = self.high as u64;
        if self.seconds > 0.0 {
            f.average = self.sum / self.seconds;
            f.deviation = (self.squares / self.seconds - f.average * f.average).max(0.0).sqrt();
            let envelope = f.average + f.deviation;
            f.smoothed = envelope.max(SMOOTHING * f.smoothed + (1.0 - SMOOTHING) * envelope);
        }
        (self.seconds, self.sum, self.squares, self.high) = (0.0, 0.0, 0.0, self.seats);
        self.figures
    }

    /// The figures of the period before.
    pub(super) fn figures(&self) -> Figures {
        self.figures
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn demand_rises_at_once_and_falls_slowly() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut d = SeatDemand::new(start);
        d.set(8, at(5));
        let f = d.settle(at(10));
        assert_eq!((f.high, f.average, f.deviation, f.smoothed), (8, 4.0, 4.0, 8.0));
        d.set(0, at(10));
        let f = d.settle(at(20));
        assert_eq!((f.high, f.average, f.deviation), (8, 0.0, 0.0));
        assert!((f.smoothed - 8.0 * SMOOTHING).abs() < 1e-9, "{f:?}");
        assert_eq!(d.settle(at(30)).high, 0);
    }
}
