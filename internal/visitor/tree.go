package visitor

import (
	"fmt"
	"html"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// merge applies an update to a tree: a node that brings its fixed parts ("s")
// replaces the old one, any other changes only the slots it names. A list is
// changed by operations.
func merge(old, update any) any {
	into, ok := old.(map[string]any)
	if operations, isList := update.([]any); ok && isList {
		for _, operation := range operations {
			edit(into, operation.([]any))
		}
		return into
	}
	from, isNode := update.(map[string]any)
	if _, whole := from["s"]; !ok || !isNode || whole {
		return update
	}
	for slot, value := range from {
		into[slot] = merge(into[slot], value)
	}
	return into
}

// edit applies an operation to a list: its items ("d") are known by the slot that
// its description ("m") names. The first items of an empty list bring both it
// and the fixed parts along.
func edit(list map[string]any, op []any) {
	items, _ := list["d"].([]any)
	find := func(key any) int {
		slot := list["m"].(map[string]any)["idKey"].(string)
		return slices.IndexFunc(items, func(item any) bool { return item.(map[string]any)[slot] == key })
	}
	switch op[0] {
	case "a": // append
		items = append(items, op[1].([]any)...)
		if len(op) == 4 {
			list["s"], list["m"] = op[2], op[3]
		}
	case "p": // prepend
		items = slices.Concat(op[1].([]any), items)
	case "i": // insert after
		items = slices.Insert(items, find(op[1])+1, op[2])
	case "r": // remove
		items = slices.Delete(items, find(op[1]), find(op[1])+1)
	case "u": // update
		items[find(op[1])] = merge(items[find(op[1])], op[2])
	case "o": // order
		var ordered []any
		for _, key := range op[1].([]any) {
			ordered = append(ordered, items[find(key)])
		}
		items = ordered
	default:
		panic(fmt.Sprintf("unknown operation %v", op))
	}
	list["d"] = items
}

// render is the HTML of a tree: fixed parts and slots in turn, for a list once
// for each item.
func render(tree any) string {
	node, ok := tree.(map[string]any)
	if !ok {
		if tree == nil {
			return ""
		}
		return fmt.Sprint(tree)
	}
	fixed, _ := node["s"].([]any)
	items, isList := node["d"].([]any)
	if !isList {
		items = []any{node}
	}
	var b strings.Builder
	for _, item := range items {
		for i, part := range fixed {
			b.WriteString(part.(string))
			b.WriteString(render(item.(map[string]any)[strconv.Itoa(i)]))
		}
	}
	return b.String()
}

// Around returns the HTML of a page before and after its live part, without listings.
func Around(t testing.TB, page string) (before, after string) {
	t.Helper()
	parts := aroundLive.FindStringSubmatch(listings.ReplaceAllString(page, ""))
	require.NotNil(t, parts, "the live part of the page:\n%s", page)
	return parts[1], parts[2]
}

// Readable returns the text a person sees of some HTML, without listings.
func Readable(markup string) string {
	text := html.UnescapeString(tags.ReplaceAllString(listings.ReplaceAllString(markup, ""), ""))
	return spaces.ReplaceAllString(text, " ")
}

var (
	aroundLive = regexp.MustCompile(`(?s)^(.*?<div data-lvt-id=[^>]*>).*(</div>.*)$`)
	listings   = regexp.MustCompile(`(?s)<figure class="listing">.*?</figure>`) // show code, with the words that a page may say
	tags       = regexp.MustCompile(`<[^>]*>`)
	spaces     = regexp.MustCompile(`[ \t\r\n]+`)
)
