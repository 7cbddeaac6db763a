//! The bytes that bring a terminal from one frame to the next: one write for each.

use super::width::columns;

/// What the last frame left at the bottom of the terminal. The cursor stands at the beginning of the row below.
#[derive(Default)]
pub(super) struct Screen {
    window: Vec<String>,
    columns: usize,
}

impl Screen {
    /// Puts `lasting` lines above a new window; `None` where nothing changes. Lasting lines may be longer than a
    /// row.
    pub fn frame(&mut self, lasting: &[String], window: Vec<String>, columns: usize) -> Option<String> {
        if lasting.is_empty() && window == self.window && columns == self.columns {
            return None;
        }
        let mut out = String::new();
        match self.rows(columns) {
            0 => {}
            rows => out.push_str(&format!("\r\x1b[{rows}A")),
        }
        // A narrower terminal may have wrapped the old window, and lasting lines may wrap: their rows have to be
        // empty. Otherwise rows are replaced one by one, which does not flicker where frames are shown half.
        if !self.window.is_empty() && (!lasting.is_empty() || columns != self.columns) {
            out.push_str("\x1b[J");
        }
        for line in lasting {
            out.push_str(&line.replace('\n', "\r\n"));
            out.push_str("\r\n");
        }
        for line in &window {
            out.push_str("\x1b[2K");
            out.push_str(line);
            out.push_str("\r\n");
        }
        if !window.is_empty() || !self.window.is_empty() {
            // What is left of a longer window, and what the terminal echoed, such as ^C.
            out.push_str("\x1b[J");
        }
        (self.window, self.columns) = (window, columns);
        Some(out)
    }

    /// Rows that the old window takes now. Terminals wrap what is there when they become narrower.
    fn rows(&self, columns_now: usize) -> usize {
        if columns_now >= self.columns {
            return self.window.len();
        }
        self.window.iter().map(|line| columns(line).div_ceil(columns_now.max(1)).max(1)).sum()
    }
}
