package presence

import "html/template"

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
