//! Codes put to the test, batch by batch.

use std::io;

use iced_x86::Code;

use crate::{
    case::Case,
    compare::differences,
    generate::{Generator, decode},
    native::Native,
    operands::Form,
    ours::{Ours, Way},
    report::Difference,
};

/// Both sides.
#[derive(Debug)]
pub struct Sides {
    ours: Ours,
    native: Native,
}

/// What became of the cases of a code and form.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// How many cases there were.
    pub cases: usize,
    /// How many could not be put to the test: the software CPU has not built the instruction.
    pub unbuilt: usize,
    /// How many of them ended in an exception.
    pub faults: usize,
    /// Those that came out differently.
    pub found: Vec<Difference>,
    /// How many came out differently; the first are in `found`.
    pub differences: usize,
}

/// The most differences of a row that are kept.
const KEPT: usize = 20;

impl Sides {
    /// Starts both.
    ///
    /// # Errors
    /// The host refused the process or its memory.
    pub fn start() -> io::Result<Self> {
        Ok(Self { ours: Ours::new(), native: Native::start()? })
    }

    /// Puts `count` cases of a code to the test. The seed decides on them alone.
    ///
    /// # Errors
    /// The processor's side cannot be started again.
    pub fn survey(&mut self, code: Code, form: Form, count: usize, seed: u64) -> io::Result<Row> {
        let own = seed ^ (code as u64) << 32 ^ (form as u64) << 63;
        let mut generator = Generator::new(own);
        let mut row = Row::default();
        while row.cases < count {
            let most = (count - row.cases).min(Native::MOST);
            let made = (0..most).map_while(|_| generator.case(code, form));
            let cases: Vec<Case> = made.collect();
            if cases.is_empty() {
                break;
            }
            self.batch(cases, &mut row)?;
            if row.unbuilt > 0 {
                break;
            }
        }
        Ok(row)
    }

    fn batch(&mut self, mut cases: Vec<Case>, row: &mut Row) -> io::Result<()> {
        let mut ours = Vec::with_capacity(cases.len());
        cases.retain(|case| {
            let i = decode(&case.code, case.before.rip);
            let ways = Way::of(case, &i).iter();
            let outcomes = ways.map(|way| Some((*way, self.ours.execute(case, *way)?)));
            let outcomes = outcomes.collect::<Option<Vec<_>>>();
            let built = outcomes.is_some();
            ours.extend(outcomes.map(|outcomes| (i, outcomes)));
            row.unbuilt += usize::from(!built);
            built
        });
        let host = match self.native.execute(&cases) {
            Ok(host) => host,
            Err(error) => {
                self.native = Native::start()?;
                if let [case] = &cases[..] {
                    row.cases += 1;
                    row.add(Difference { case: case.clone(), what: vec![error.to_string()] });
                    return Ok(());
                }
                // One by one, to know which it was.
                return cases.into_iter().try_for_each(|case| self.batch(vec![case], row));
            }
        };
        row.cases += cases.len();
        for ((case, (i, ours)), host) in cases.iter().zip(&ours).zip(&host) {
            row.faults += usize::from(host.fault.is_some());
            for (way, ours) in ours {
                let mut what = differences(i, case, ours, host);
                if !what.is_empty() {
                    what.push(format!("(by a {way:?})").to_lowercase());
                    row.add(Difference { case: case.clone(), what });
                    break;
                }
            }
        }
        Ok(())
    }

    /// Puts one case to the test.
    ///
    /// # Errors
    /// The processor's side cannot be started again.
    pub fn check(&mut self, case: &Case) -> io::Result<Row> {
        let mut row = Row::default();
        self.batch(vec![case.clone()], &mut row)?;
        Ok(row)
    }
}

impl Row {
    fn add(&mut self, difference: Difference) {
        self.differences += 1;
        if self.found.len() < KEPT {
            self.found.push(difference);
        }
    }
}
