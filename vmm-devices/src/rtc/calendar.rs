//! Seconds since 1970 to date and time of day and back: the proleptic Gregorian calendar, no leap
//! seconds.
//!
//! The method counts days in eras of 400 years that begin on 1 March, so that the leap day is the
//! last of its year (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").

const DAY: i64 = 86_400;
/// Days in 400 years.
const ERA: i64 = 146_097;
/// Days from 1 March of year 0 to 1 January 1970.
const EPOCH: i64 = 719_468;

/// A point in time as a calendar and a clock show it.
///
/// Fields beyond their range carry over when it is turned into seconds, but the month, which is
/// brought into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Date {
    pub(super) year: i64,
    /// From 1.
    pub(super) month: i64,
    /// From 1.
    pub(super) day: i64,
    pub(super) hour: i64,
    pub(super) minute: i64,
    pub(super) second: i64,
}

impl Date {
    /// The date `seconds` after the start of 1970.
    pub(super) fn from_seconds(seconds: i64) -> Self {
        let (days, rest) = (seconds.div_euclid(DAY) + EPOCH, seconds.rem_euclid(DAY));
        let (era, day_of_era) = (days.div_euclid(ERA), days.rem_euclid(ERA));
        // Without the leap days before it: every 4 years, but not every 100, but every 400.
        let leapless = day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096;
        let year_of_era = leapless / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        // Months from March have 153 days in each five.
        let from_march = (5 * day_of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        Self {
            year: era * 400 + year_of_era + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * from_march + 2) / 5 + 1,
            hour: rest / 3_600,
            minute: rest / 60 % 60,
            second: rest % 60,
        }
    }

    /// The seconds from the start of 1970.
    pub(super) fn to_seconds(self) -> i64 {
        let month = self.month.clamp(1, 12);
        let year = self.year - i64::from(month <= 2);
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let from_march = if month > 2 { month - 3 } else { month + 9 };
        let day_of_year = (153 * from_march + 2) / 5 + self.day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * ERA + day_of_era - EPOCH;
        days * DAY + self.hour * 3_600 + self.minute * 60 + self.second
    }

    /// The day of the week: 1 is Sunday.
    pub(super) fn weekday(self) -> i64 {
        // The first day of 1970 was a Thursday.
        (self.to_seconds().div_euclid(DAY) + 4).rem_euclid(7) + 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn date(year: i64, month: i64, day: i64) -> Date {
        Date { year, month, day, hour: 0, minute: 0, second: 0 }
    }

    #[test]
    fn known_dates() {
        // date -u -d @SECONDS
        let known = [
            (0, date(1970, 1, 1), 5),
            (951_782_400, date(2000, 2, 29), 3),
            (951_868_800, date(2000, 3, 1), 4),
            (-2_203_977_600, date(1900, 2, 28), 4),
            (-2_203_891_200, date(1900, 3, 1), 5),
            (4_107_456_000, date(2100, 2, 28), 1),
            (4_107_542_400, date(2100, 3, 1), 2),
            (1_709_164_800, date(2024, 2, 29), 5),
            (253_402_214_400, date(9999, 12, 31), 6),
        ];
        for (seconds, date, weekday) in known {
            assert_eq!(Date::from_seconds(seconds), date);
            assert_eq!((date.to_seconds(), date.weekday()), (seconds, weekday), "{date:?}");
        }
        let last = Date::from_seconds(-1);
        assert_eq!((last.year, last.hour, last.minute, last.second), (1969, 23, 59, 59));
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let leap = |year: i64| year % 4 == 0 && year % 100 != 0 || year % 400 == 0;
        let mut expected = date(1600, 1, 1);
        for day in 0..ERA + 366 {
            assert_eq!(Date::from_seconds(expected.to_seconds()), expected);
            assert_eq!(expected.to_seconds(), date(1600, 1, 1).to_seconds() + day * DAY);
            let length = match expected.month {
                2 => 28 + i64::from(leap(expected.year)),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            expected.day += 1;
            if expected.day > length {
                (expected.month, expected.day) = (expected.month + 1, 1);
            }
            if expected.month > 12 {
                (expected.year, expected.month) = (expected.year + 1, 1);
            }
        }
    }

    proptest! {
        #[test]
        fn there_and_back(seconds in i64::MIN / 2..i64::MAX / 2) {
            let date = Date::from_seconds(seconds);
            prop_assert_eq!(date.to_seconds(), seconds);
            prop_assert!((1..=12).contains(&date.month) && (1..=31).contains(&date.day));
        }
    }
}
