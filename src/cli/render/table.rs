//! Columns.

use crate::cli::terminal::{Style, wrap};

/// Less than so much of a cell says nothing.
const CLIPPED_MIN: usize = 8;

/// A table, indented by two, whose columns are as wide as they must be. Columns that are empty throughout are left out.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    head: [&'static str; N],
    rows: Vec<Row<N>>,
}

#[derive(Debug)]
struct Row<const N: usize> {
    cells: [String; N],
    paint: fn(Style, &str) -> String,
    below: Vec<String>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(head: [&'static str; N]) -> Self {
        Self { head, rows: Vec::new() }
    }

    /// Adds a row, its second cell painted, with lines below it that keep to no column.
    pub(super) fn row(&mut self, cells: [String; N], paint: fn(Style, &str) -> String, below: Vec<String>) {
        self.rows.push(Row { cells, paint, below });
    }

    pub(super) fn text(&self, style: Style) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let columns: Vec<usize> = (0..N).filter(|at| self.rows.iter().any(|row| !row.cells[*at].is_empty())).collect();
        let widths = self.head.map(|head| head.chars().count());
        let widths: Vec<usize> = (0..N)
            .map(|at| self.rows.iter().map(|row| row.cells[at].chars().count()).chain([widths[at]]).max().unwrap_or(0))
            .collect();
        let head: Vec<String> = columns.iter().map(|at| format!("{:<1$}", self.head[*at], widths[*at])).collect();
        // What stands before the last one, and what is between them.
        let before = columns.iter().rev().skip(1).map(|at| widths[*at] + 2).sum::<usize>() + 2;
        let mut out = format!("  {}\n", style.faint(head.join("  ").trim_end()));
        for row in &self.rows {
            let mut line = String::from(" ");
            let last = columns.last();
            for at in &columns {
                let cell = match style.width {
                    Some(width) if Some(at) == last => clipped(&row.cells[*at], width.saturating_sub(before)),
                    Some(_) | None => row.cells[*at].clone(),
                };
                let padding = if Some(at) == last { 0 } else { widths[*at] - cell.chars().count() };
                let painted = if *at == 1 { (row.paint)(style, &cell) } else { cell };
                line.push_str(&format!(" {painted}{:padding$} ", ""));
            }
            out.push_str(line.trim_end());
            out.push('\n');
            for below in &row.below {
                let width = style.width.map_or(usize::MAX, |width| width.saturating_sub(6));
                for line in wrap(below, width) {
                    out.push_str(&format!("      {}\n", style.faint(&line)));
                }
            }
        }
        out
    }
}

/// A cell that ends at the edge, unless hardly anything of it would be left.
fn clipped(cell: &str, room: usize) -> String {
    if cell.chars().count() <= room || room < CLIPPED_MIN {
        return cell.to_owned();
    }
    cell.chars().take(room - 1).chain(['…']).collect()
}
