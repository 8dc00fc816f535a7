//! Reads a parsed TOML document table by table, and gathers every mistake instead of stopping at the first.
//!
//! Deserializing with serde would end at the first wrong type or unknown key, and its messages would name
//! neither the line of the key nor the table it stands in. So the tables of [`toml::de`], which keep the span
//! of each key and of each value, are read directly.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Origin};
use super::value::{self, found, is_name, shown};

/// A value and the place where it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) origin: Origin,
}

/// Tells in which line of a text an offset lies.
pub(super) struct LineIndex {
    newlines: Vec<usize>,
}

impl LineIndex {
    pub(super) fn new(text: &str) -> Self {
        Self {
            newlines: text.match_indices('\n').map(|(offset, _)| offset).collect(),
        }
    }

    /// The line of a byte offset, counted from 1.
    pub(super) fn line_of(&self, offset: usize) -> usize {
        self.newlines.partition_point(|newline| *newline < offset) + 1
    }
}

/// Which table is being read.
struct Place {
    /// The line and the full key path: `service[impala].check`, empty for the top level.
    origin: Origin,
    /// The same path without names, as the manual spells it: `service.check`.
    schema: String,
    /// The table as its header in the file looks.
    heading: String,
}

impl Place {
    fn key_path(&self, key: &str) -> String {
        join(&self.origin.key, &shown_key(key))
    }

    fn schema_path(&self, key: &str) -> String {
        join(&self.schema, key)
    }
}

/// Reads the keys of one table. Keys that nobody has asked for are refused at the end.
pub(super) struct TableReader<'r, 't> {
    entries: &'r DeTable<'t>,
    place: Place,
    lines: &'r LineIndex,
    asked: Vec<&'static str>,
    errors: &'r mut Vec<ConfigError>,
}

/// Reads the top level of a document, and through it everything below.
pub(super) fn read_top_level<T>(
    entries: &DeTable<'_>,
    lines: &LineIndex,
    errors: &mut Vec<ConfigError>,
    read: impl FnOnce(&mut TableReader<'_, '_>) -> T,
) -> T {
    let origin = Origin {
        line: 1,
        key: String::new(),
    };
    let place = Place {
        origin,
        schema: String::new(),
        heading: "the top level".into(),
    };
    read_table(entries, place, lines, errors, read)
}

fn read_table<T>(
    entries: &DeTable<'_>,
    place: Place,
    lines: &LineIndex,
    errors: &mut Vec<ConfigError>,
    read: impl FnOnce(&mut TableReader<'_, '_>) -> T,
) -> T {
    let mut reader = TableReader {
        entries,
        place,
        lines,
        asked: Vec::new(),
        errors,
    };
    let table = read(&mut reader);
    reader.refuse_other_keys();
    table
}

impl<'r, 't> TableReader<'r, 't> {
    /// Where the table begins.
    pub(super) fn origin(&self) -> &Origin {
        &self.place.origin
    }

    /// The value of a key that may be absent. `None` also if the value was refused.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        convert: impl FnOnce(&DeValue<'_>) -> Result<T, String>,
    ) -> Option<At<T>> {
        let (value, origin) = self.ask(key)?;
        self.convert(value, origin, convert)
    }

    /// The value of a key that must be there, with an example for the message that misses it.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        example: &str,
        convert: impl FnOnce(&DeValue<'_>) -> Result<T, String>,
    ) -> Option<At<T>> {
        let Some((value, origin)) = self.ask(key) else {
            self.refuse_absence(key, "this key", &format!("`{key} = {example}`"));
            return None;
        };
        self.convert(value, origin, convert)
    }

    /// The elements of an array that must be there and not be empty. Refused elements are left out.
    pub(super) fn required_list<T>(
        &mut self,
        key: &'static str,
        example: &str,
        convert: impl Fn(&DeValue<'_>) -> Result<T, String>,
    ) -> Vec<At<T>> {
        let Some((value, origin)) = self.ask(key) else {
            self.refuse_absence(key, "this key", &format!("`{key} = {example}`"));
            return Vec::new();
        };
        self.list(value, &origin, &format!("write {example}"), convert)
    }

    /// The elements of an array that may be absent, but not empty. Refused elements are left out.
    pub(super) fn optional_list<T>(
        &mut self,
        key: &'static str,
        advice: &str,
        convert: impl Fn(&DeValue<'_>) -> Result<T, String>,
    ) -> Vec<At<T>> {
        match self.ask(key) {
            Some((value, origin)) => self.list(value, &origin, advice, convert),
            None => Vec::new(),
        }
    }

    fn list<T>(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        origin: &Origin,
        advice: &str,
        convert: impl Fn(&DeValue<'_>) -> Result<T, String>,
    ) -> Vec<At<T>> {
        let Some(elements) = value.get_ref().as_array().filter(|elements| !elements.is_empty()) else {
            let message = format!(
                "expected an array that is not empty, found {}; {advice}",
                found(value.get_ref())
            );
            self.errors.push(origin.error(message));
            return Vec::new();
        };
        let mut list = Vec::new();
        for (index, element) in elements.iter().enumerate() {
            let origin = Origin {
                line: self.lines.line_of(element.span().start),
                key: format!("{}[#{}]", origin.key, index + 1),
            };
            list.extend(self.convert(element, origin, &convert));
        }
        list
    }

    /// A table of this table. An absent one reads as an empty one.
    pub(super) fn table<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut TableReader<'_, '_>) -> T,
    ) -> T {
        let schema = self.place.schema_path(key);
        let heading = format!("[{schema}]");
        let asked = self.ask(key);
        let empty = DeTable::new();
        let mut discarded = Vec::new();
        let (entries, origin, errors) = match asked.map(|(value, origin)| (value.get_ref(), origin)) {
            Some((DeValue::Table(entries), origin)) => (entries, origin, &mut *self.errors),
            Some((other, origin)) => {
                let message = format!("expected a table, found {}; write {heading}", found(other));
                self.errors.push(origin.error(message));
                // The one error says it: what the table would have lacked is not worth more of them.
                (&empty, origin, &mut discarded)
            }
            None => {
                let origin = Origin {
                    line: self.place.origin.line,
                    key: self.place.key_path(key),
                };
                (&empty, origin, &mut *self.errors)
            }
        };
        read_table(
            entries,
            Place {
                origin,
                schema,
                heading,
            },
            self.lines,
            errors,
            read,
        )
    }

    /// The tables of an array that must be there and not be empty, as `[[…]]` headers make it.
    ///
    /// The key path names each one by its `name` if that can be read, else by its number.
    pub(super) fn required_tables<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&mut TableReader<'_, '_>) -> T,
    ) -> Vec<T> {
        let is_empty = match self.entries.get(key).map(Spanned::get_ref) {
            None => true,
            Some(value) => value.as_array().is_some_and(|elements| elements.is_empty()),
        };
        if is_empty {
            let heading = format!("[[{}]]", self.place.schema_path(key));
            self.refuse_absence(key, "at least one table", &heading);
        }
        self.optional_tables(key, read)
    }

    /// The same for an array that may be absent.
    pub(super) fn optional_tables<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&mut TableReader<'_, '_>) -> T,
    ) -> Vec<T> {
        let schema = self.place.schema_path(key);
        let heading = format!("[[{schema}]]");
        let asked = self.ask(key);
        let elements: &[Spanned<DeValue<'_>>] = match &asked {
            None => &[],
            Some((value, origin)) => match value.get_ref() {
                DeValue::Array(elements) => elements,
                other => {
                    let message = format!(
                        "expected an array of tables, found {}; write {heading}",
                        found(other)
                    );
                    self.errors.push(origin.error(message));
                    return Vec::new();
                }
            },
        };
        let mut tables = Vec::new();
        for (index, element) in elements.iter().enumerate() {
            let entries = element.get_ref().as_table();
            let name = entries
                .and_then(|entries| entries.get("name"))
                .and_then(|name| name.get_ref().as_str());
            let label = match name {
                Some(name) if is_name(name) => name.to_owned(),
                _ => format!("#{}", index + 1),
            };
            let origin = Origin {
                line: self.lines.line_of(element.span().start),
                key: format!("{}[{label}]", self.place.key_path(key)),
            };
            let Some(entries) = entries else {
                let message = format!(
                    "expected a table, found {}; write {heading}",
                    found(element.get_ref())
                );
                self.errors.push(origin.error(message));
                continue;
            };
            let place = Place {
                origin,
                schema: schema.clone(),
                heading: heading.clone(),
            };
            tables.push(read_table(entries, place, self.lines, self.errors, &read));
        }
        tables
    }

    /// Whether a key is written, whatever its value.
    pub(super) fn mentions(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Whether a key is written, with a table for its value.
    pub(super) fn mentions_table(&self, key: &str) -> bool {
        let value = self.entries.get(key);
        value.is_some_and(|value| value.get_ref().as_table().is_some())
    }

    /// Looks a key up, and remembers that it is one of this table's keys.
    fn ask(&mut self, key: &'static str) -> Option<(&'r Spanned<DeValue<'t>>, Origin)> {
        self.asked.push(key);
        let (written, value) = self.entries.get_key_value(key)?;
        Some((value, self.origin_of(written)))
    }

    fn origin_of(&self, key: &Spanned<toml::de::DeString<'_>>) -> Origin {
        Origin {
            line: self.lines.line_of(key.span().start),
            key: self.place.key_path(key.get_ref()),
        }
    }

    fn convert<T>(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        origin: Origin,
        convert: impl FnOnce(&DeValue<'_>) -> Result<T, String>,
    ) -> Option<At<T>> {
        match convert(value.get_ref()) {
            Ok(value) => Some(At { value, origin }),
            Err(message) => {
                self.errors.push(origin.error(message));
                None
            }
        }
    }

    fn refuse_absence(&mut self, key: &str, what: &str, addition: &str) {
        let message = format!("expected {what}, found none; add {addition}");
        self.errors.push(ConfigError::at(
            self.place.origin.line,
            self.place.key_path(key),
            message,
        ));
    }

    fn refuse_other_keys(&mut self) {
        for (key, _) in self.entries {
            if self.asked.contains(&key.get_ref().as_ref()) {
                continue;
            }
            let message = self.unknown_key(key.get_ref());
            let origin = self.origin_of(key);
            self.errors.push(origin.error(message));
        }
    }

    fn unknown_key(&self, key: &str) -> String {
        let advice = match value::nearest(key, &self.asked) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("remove it or use one of {}", self.asked.join(", ")),
        };
        format!(
            "expected a key of {}, found {}; {advice}",
            self.place.heading,
            shown(key)
        )
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// A key as it must be written in TOML, shortened if it is absurdly long.
fn shown_key(key: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !key.is_empty() && key.len() <= 63 && key.bytes().all(is_bare) {
        key.to_owned()
    } else {
        shown(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_have_lines() {
        let lines = LineIndex::new("a\r\nbc\n\nd");
        let found: Vec<usize> = (0..=8).map(|offset| lines.line_of(offset)).collect();
        assert_eq!(found, [1, 1, 1, 2, 2, 2, 3, 4, 4]);
    }

    #[test]
    fn keys_that_are_not_bare_stay_on_one_line() {
        assert_eq!(shown_key("max_flows"), "max_flows");
        assert_eq!(shown_key("two\nlines"), r#""two\nlines""#);
        assert_eq!(shown_key(""), r#""""#);
    }
}
