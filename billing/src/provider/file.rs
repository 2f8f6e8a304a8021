//! A folder as a sink of reports: a file for each report, for finance systems that take files.
//!
//! A report becomes `<folder>/<identifier>.json`, written beside its place and renamed there, so that a reader never
//! sees half of one; the identifier's colon is a hyphen in the name. The identifier is the file, so the same report
//! again is the same file, and another report under a known identifier is refused. What is summed up is what the
//! folder holds. Absent on purpose: removing files (whoever has taken them in moves them to `taken/`, where they still
//! count), and any state beside the folder.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use billing_core::report::{Outcome, Row};
use schemas::{Hour, MeterName, Period, Quantity, TenantId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Provider, Told, Unread};

/// Where a reader puts what it has taken in.
const TAKEN: &str = "taken";

/// Reports of some meters go to a folder.
pub struct FileDrop {
    folder: PathBuf,
    meters: Vec<MeterName>,
}

/// A report as it stands in its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Report {
    v: u8,
    identifier: String,
    tenant: TenantId,
    customer: String,
    meter: MeterName,
    /// Unit: hours since 1970, UTC.
    hour: Hour,
    revision: u64,
    quantity: Quantity,
    /// The moment that it counts in. Unit: seconds since 1970.
    at_s: i64,
}

impl FileDrop {
    /// A sink over a folder, which is made if it is missing.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn try_new(folder: &Path, meters: Vec<MeterName>) -> io::Result<Self> {
        std::fs::create_dir_all(folder.join(TAKEN))?;
        Ok(Self { folder: folder.to_owned(), meters })
    }

    fn path(&self, identifier: &str) -> PathBuf {
        self.folder.join(format!("{}.json", identifier.replace(':', "-")))
    }

    /// The report that is known by an identifier.
    fn known(&self, identifier: &str) -> io::Result<Option<Report>> {
        let path = self.path(identifier);
        let taken = path.file_name().map(|name| self.folder.join(TAKEN).join(name));
        for path in std::iter::once(path).chain(taken) {
            match std::fs::read(&path) {
                Ok(text) => return Ok(Some(serde_json::from_slice(&text)?)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Writes a report where nothing is yet: whole and on the disk, or not at all.
    fn write(&self, report: &Report) -> io::Result<()> {
        let path = self.path(&report.identifier);
        let beside = path.with_extension(format!("tmp{}", std::process::id()));
        let mut file = std::fs::File::create(&beside)?;
        file.write_all(&serde_json::to_vec(report)?)?;
        file.sync_all()?;
        // A link refuses a name that is taken, which a rename would replace.
        let placed = std::fs::hard_link(&beside, &path);
        std::fs::remove_file(&beside)?;
        placed?;
        std::fs::File::open(&self.folder)?.sync_all()
    }

    fn tell_once(&self, report: &Report) -> io::Result<Outcome> {
        match self.known(&report.identifier)? {
            Some(known) if known == *report => {
                return Ok(Outcome::Duplicate { identifier: report.identifier.clone() });
            }
            Some(_) => return Ok(Outcome::Refused),
            None => {}
        }
        match self.write(report) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.tell_once(report),
            Err(error) => Err(error),
            Ok(()) => Ok(Outcome::Accepted),
        }
    }

    /// Everything in the folder that is of a customer and meter.
    fn sum(
        &self,
        customer: &str,
        meter: &MeterName,
        counts: impl Fn(&Report) -> bool,
    ) -> Result<Quantity, Unread> {
        let unread = |error: io::Error| Unread {
            source: Box::new(error),
            retry_after_ms: None,
            transient: true,
        };
        let mut sum = Quantity::ZERO;
        for folder in [self.folder.clone(), self.folder.join(TAKEN)] {
            for entry in std::fs::read_dir(folder).map_err(unread)? {
                let path = entry.map_err(unread)?.path();
                if path.extension().is_none_or(|end| end != "json") {
                    continue;
                }
                let text = std::fs::read(&path).map_err(unread)?;
                let report: Report =
                    serde_json::from_slice(&text).map_err(|error| unread(error.into()))?;
                if report.customer == customer && report.meter == *meter && counts(&report) {
                    sum = sum.checked_add(report.quantity).map_err(|error| {
                        unread(io::Error::new(io::ErrorKind::InvalidData, error))
                    })?;
                }
            }
        }
        Ok(sum)
    }
}

impl Provider for FileDrop {
    fn takes(&self, meter: &MeterName) -> bool {
        self.meters.contains(meter)
    }

    /// Whoever takes the files in decides who is billed.
    fn names_customers(&self) -> bool {
        true
    }

    async fn tell(&self, row: &Row, identifier: &str, _: &str) -> Told {
        let report = Report {
            v: 1,
            identifier: identifier.to_owned(),
            tenant: row.tenant,
            customer: row.customer.clone(),
            meter: row.meter.clone(),
            hour: row.hour,
            revision: row.revision,
            quantity: row.quantity,
            at_s: row.timestamp_s(),
        };
        match self.tell_once(&report) {
            Ok(Outcome::Refused) => Told {
                outcome: Outcome::Refused,
                said: "another report has this identifier".to_owned(),
            },
            Ok(outcome) => Told { outcome, said: String::new() },
            // The disk may have it: the same again tells.
            Err(error) => Told { outcome: Outcome::Unknown, said: error.to_string() },
        }
    }

    async fn hour_total(
        &self,
        customer: &str,
        meter: &MeterName,
        hour: Hour,
    ) -> Result<Quantity, Unread> {
        self.sum(customer, meter, |report| report.hour == hour)
    }

    async fn period_total(
        &self,
        customer: &str,
        meter: &MeterName,
        period: Period,
    ) -> Result<Quantity, Unread> {
        self.sum(customer, meter, |report| {
            period.contains(Timestamp(report.at_s.saturating_mul(1000)))
        })
    }
}
