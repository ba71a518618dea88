package presence

import (
	"html/template"
)

// List is who is online as one tab shows it, in rows: the user of the tab first, and then
// the others in the order they came. What all tabs show alike is rendered once. A tab
// whose user is in the middle of it gets the parts before and after.
type List struct {
	You           template.HTML // empty for a tab that has not joined
	Before, After template.HTML
	More          int // users who are not listed
}

// Listed is what the row of a user shows.
type Listed struct {
	Key  int // distinguishes users with the same name; stays as long as the user is online
	Name string
	Tabs int  // number of connections, at least 1
	You  bool // the row is for the user's own tabs
}

// rows are the rows of the users who came first, as other tabs show them.
type rows struct {
	text template.HTML
	cuts []int // where the text can be cut: before, between and after the rows; nil: nothing is rendered
}

// changedLocked makes stale what was rendered before a user came or went, here or in
// another tab.
func (r *Record) changedLocked(user *online) { r.rows, user.you = rows{}, "" }

func (r *Record) renderLocked() {
	r.rows.cuts = append(make([]int, 0, r.opts.Listed+1), 0)
	for _, user := range r.arrivals[:min(r.opts.Listed, len(r.arrivals))] {
		r.rows.text += r.opts.Row(Listed{Key: user.key, Name: user.Name, Tabs: user.tabs})
		r.rows.cuts = append(r.rows.cuts, len(r.rows.text))
	}
}

// View returns the number of users online, and the list of them as the tab of a
// connection shows it.
func (r *Record) View(id string) (count int, list List) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rows.cuts == nil {
		r.renderLocked()
	}
	text, cuts, count := r.rows.text, r.rows.cuts, len(r.arrivals)
	list.Before, list.More = text, count-(len(cuts)-1)
	if you := r.connections[id].online; you != nil {
		if you.you == "" {
			you.you = r.opts.Row(Listed{Key: you.key, Name: you.Name, Tabs: you.tabs, You: true})
		}
		// A user who is not among the first takes the place of the last of them.
		at := min(r.arrivalLocked(you), len(cuts)-2)
		list.You, list.Before, list.After = you.you, text[:cuts[at]], text[cuts[at+1]:]
	}
	return count, list
}
