//! The statements that the stand-in understands, and their results.
//!
//! | statement | result |
//! | --- | --- |
//! | `select coordinator()` | one STRING: the coordinator's name |
//! | `select sleep(MILLISECONDS)` | one BOOLEAN, true, when that time has passed; it can be cancelled meanwhile |
//! | `select rows(N)` | N rows of BIGINT `id` (0, 1, …) and STRING `text` (`row 0`, `row 1`, …), made as they are fetched |
//!
//! Case, white space and a closing semicolon do not matter.

use std::time::Duration;

use super::failure::Failure;

/// Rows of one `FetchResults` at most. impyla asks for as many.
const MAX_BATCH_ROWS: u64 = 10_240;

/// A statement that the stand-in can execute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statement {
    /// `select coordinator()`
    Coordinator,
    /// `select sleep(MILLISECONDS)`
    Sleep(Duration),
    /// `select rows(N)`
    Rows(u64),
}

/// Type of a result column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "SQL's types")]
pub enum ColumnType {
    Boolean,
    BigInt,
    String,
}

/// The values of one column in a batch of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "SQL's types")]
pub enum ColumnValues {
    Boolean(Vec<bool>),
    BigInt(Vec<i64>),
    String(Vec<String>),
}

/// Rows that follow each other in a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Number of the first row.
    pub first_row: u64,
    /// One entry for each column.
    pub columns: Vec<ColumnValues>,
    /// More rows follow.
    pub more: bool,
}

impl Statement {
    /// Reads a statement.
    pub fn parse(sql: &str) -> Result<Self, Failure> {
        let normal = sql.trim().trim_end_matches(';').to_ascii_lowercase();
        let argument = |function: &str| {
            let rest = normal.strip_prefix("select")?;
            let call = rest
                .strip_prefix(char::is_whitespace)?
                .trim()
                .strip_prefix(function)?
                .trim_start();
            Some(call.strip_prefix('(')?.strip_suffix(')')?.trim())
        };
        // i64::MAX because the numbers of the rows are a BIGINT column.
        let number = |function| {
            argument(function)?
                .parse()
                .ok()
                .filter(|&number: &u64| i64::try_from(number).is_ok())
        };
        if argument("coordinator") == Some("") {
            Ok(Self::Coordinator)
        } else if let Some(milliseconds) = number("sleep") {
            Ok(Self::Sleep(Duration::from_millis(milliseconds)))
        } else if let Some(rows) = number("rows") {
            Ok(Self::Rows(rows))
        } else {
            Err(Failure::UnknownStatement(sql.chars().take(200).collect()))
        }
    }

    /// How long the statement runs before it has rows.
    pub fn run_time(self) -> Duration {
        match self {
            Self::Sleep(duration) => duration,
            Self::Coordinator | Self::Rows(_) => Duration::ZERO,
        }
    }

    /// Names and types of the result's columns.
    pub fn columns(self) -> Vec<(String, ColumnType)> {
        match self {
            Self::Coordinator => vec![("coordinator()".to_owned(), ColumnType::String)],
            Self::Sleep(duration) => vec![(format!("sleep({})", duration.as_millis()), ColumnType::Boolean)],
            Self::Rows(_) => {
                vec![
                    ("id".to_owned(), ColumnType::BigInt),
                    ("text".to_owned(), ColumnType::String),
                ]
            }
        }
    }

    /// At most `max_rows` rows from `first_row` on.
    pub fn batch(self, coordinator: &str, first_row: u64, max_rows: u64) -> Batch {
        let total = match self {
            Self::Coordinator | Self::Sleep(_) => 1,
            Self::Rows(rows) => rows,
        };
        let end = total.min(first_row.saturating_add(max_rows.min(MAX_BATCH_ROWS)));
        let rows = first_row.min(end)..end;
        let columns = match self {
            Self::Coordinator => vec![ColumnValues::String(
                rows.map(|_| coordinator.to_owned()).collect(),
            )],
            Self::Sleep(_) => vec![ColumnValues::Boolean(rows.map(|_| true).collect())],
            Self::Rows(_) => vec![
                ColumnValues::BigInt(rows.clone().map(u64::cast_signed).collect()),
                ColumnValues::String(rows.map(|row| format!("row {row}")).collect()),
            ],
        };
        Batch {
            first_row,
            columns,
            more: end < total,
        }
    }
}

impl ColumnValues {
    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Boolean(values) => values.len(),
            Self::BigInt(values) => values.len(),
            Self::String(values) => values.len(),
        }
    }

    /// No row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn statements_are_recognised_as_people_write_them() {
        for (sql, statement) in [
            ("select coordinator()", Statement::Coordinator),
            ("  SELECT\n Coordinator ( ) ; ", Statement::Coordinator),
            (
                "select sleep(1500);",
                Statement::Sleep(Duration::from_millis(1500)),
            ),
            ("select rows(0)", Statement::Rows(0)),
            (
                "select rows( 9223372036854775807 )",
                Statement::Rows(i64::MAX.unsigned_abs()),
            ),
        ] {
            assert_eq!(Statement::parse(sql).unwrap(), statement, "{sql}");
        }
    }

    #[test]
    fn other_statements_are_refused_with_the_list_of_known_ones() {
        for sql in [
            "",
            "selectcoordinator()",
            "select coordinator(1)",
            "select sleep()",
            "select sleep(-1)",
            "select rows(9223372036854775808)",
            "select rows(1) limit 1",
            "drop table t",
        ] {
            let message = Statement::parse(sql).unwrap_err().to_string();
            assert!(
                message.contains("select rows(N)") && message.contains(sql),
                "{sql}: {message}"
            );
        }
    }

    #[test]
    fn the_largest_result_costs_no_more_than_a_batch() {
        let all = Statement::Rows(i64::MAX.unsigned_abs());
        let batch = all.batch("c1", 0, u64::MAX);
        assert_eq!(batch.columns[0].len(), usize::try_from(MAX_BATCH_ROWS).unwrap());
        assert!(batch.more);
        let end = all.batch("c1", i64::MAX.unsigned_abs() - 1, u64::MAX);
        assert_eq!(end.columns[0], ColumnValues::BigInt(vec![i64::MAX - 1]));
        assert!(!end.more);
    }

    proptest! {
        #[test]
        fn batches_of_any_size_add_up_to_the_result(rows in 0..5000_u64, size in 1..700_u64) {
            let statement = Statement::Rows(rows);
            let (mut ids, mut next) = (Vec::new(), 0);
            loop {
                let batch = statement.batch("c1", next, size);
                let ColumnValues::BigInt(values) = &batch.columns[0] else { panic!("id is a BIGINT") };
                prop_assert_eq!(values.len(), batch.columns[1].len());
                prop_assert_eq!(batch.first_row, next);
                next += values.len() as u64;
                ids.extend_from_slice(values);
                if !batch.more {
                    break;
                }
            }
            prop_assert_eq!(ids, (0..rows.cast_signed()).collect::<Vec<_>>());
        }

        #[test]
        fn no_text_breaks_the_parser(sql in ".{0,60}") {
            let _ = Statement::parse(&sql);
        }
    }
}
