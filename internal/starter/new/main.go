// Command new makes a program of one's own: one live page, and what it needs of this
// repository. `make new` runs it.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

func main() {
	var module, dir string
	if len(os.Args) == 3 {
		module, dir = os.Args[1], os.Args[2]
	}
	if err := makeProgram(".", module, dir); err != nil {
		fmt.Fprintln(os.Stderr, "make new:", err)
		os.Exit(1)
	}
	fmt.Printf("%s is ready. Start it, and open its page in two browsers:\n\n    cd %s\n    go run .\n", module, dir)
}

// makeProgram makes a program of a module path from the repository in root. The directory
// must be empty or not exist; after an error it is as it was.
func makeProgram(root, module, dir string) error {
	if module == "" || dir == "" {
		return errors.New("say which module to make, and where: make new MODULE=example.com/poll DIR=../poll")
	}
	switch files, err := os.ReadDir(dir); {
	case len(files) > 0:
		return fmt.Errorf("%s is not empty", dir)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	unfinished, err := os.MkdirTemp(filepath.Dir(filepath.Clean(dir)), ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(unfinished)
	if err := write(root, module, unfinished); err != nil {
		return err
	}
	os.Remove(dir) // Rename replaces no directory
	return errors.Join(os.Chmod(unfinished, 0o755), os.Rename(unfinished, dir))
}

// write writes the program into an empty directory.
func write(root, module, dir string) error {
	needed, err := neededBy(root)
	if err != nil {
		return err
	}
	err = fs.WalkDir(os.DirFS(root), ".", func(file string, entry fs.DirEntry, err error) error {
		switch to := needed.place(file); {
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains([]string{".git", "node_modules"}, entry.Name()):
			return fs.SkipDir
		case entry.IsDir() || to == "":
			return nil
		default:
			return adapt(filepath.Join(root, file), filepath.Join(dir, to), module)
		}
	})
	if err != nil {
		return err
	}
	_, err = goTool(dir, "mod", "edit", "-module="+module, "-droptool=honnef.co/go/tools/cmd/staticcheck")
	goTool(dir, "mod", "tidy") // if it fails for want of a network, go.mod has more than is needed
	return err
}

// starter is the folder of the program that is copied.
const starter = "internal/starter/"

// needs is what the program needs beside its own files.
type needs struct {
	root     string
	packages []string // folders
	assets   []string // names of files that its pages load
}

func neededBy(root string) (n needs, err error) {
	packages, err := goTool(root, "list", "-deps", "-f", `{{with .Module}}{{if .Main}}{{$.ImportPath}}{{end}}{{end}}`, "./"+starter)
	for name := range strings.FieldsSeq(packages) {
		n.packages = append(n.packages, strings.TrimPrefix(name, "realtime/")+"/")
	}
	if err != nil {
		return n, err
	}
	layout, err := os.ReadFile(filepath.Join(root, starter, "templates/layout.tmpl"))
	for _, name := range regexp.MustCompile(`asset "([^"]+)"`).FindAllStringSubmatch(string(layout), -1) {
		n.assets = append(n.assets, name[1])
	}
	n.root = root
	return n, err
}

// place returns where a file of the repository belongs in the program, or nothing.
func (n needs) place(file string) (to string) {
	folder, name := path.Split(file)
	_, err := os.Stat(filepath.Join(n.root, starter, file))
	own, isOwn := strings.CutPrefix(file, starter)
	switch {
	case isOwn && !strings.HasPrefix(own, "new/"):
		return own
	case isOwn, err == nil, strings.HasSuffix(name, "_test.go"):
		return ""
	case file == "go.mod", file == "go.sum", folder == "static/vendor/" && name != ".fetched",
		folder == "static/" && (slices.Contains(n.assets, name) || path.Ext(name) == ".json"),
		path.Ext(name) == ".go" && slices.Contains(n.packages, folder):
		return file
	}
	return ""
}

// adapt copies a file, and changes it for a module.
func adapt(from, to, module string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	switch filepath.Ext(to) {
	case ".go":
		text = []byte(strings.ReplaceAll(string(text), `"realtime/`, `"`+module+`/`))
	case ".json":
		if text, err = withoutTools(text, path.Base(module)); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o644)
}

// withoutTools renames the project in a file of npm, and removes what only tests of this
// repository need.
func withoutTools(file []byte, name string) ([]byte, error) {
	var content map[string]any
	err := json.Unmarshal(file, &content)
	projects := []map[string]any{content}
	if packages, ok := content["packages"].(map[string]any); ok {
		maps.DeleteFunc(packages, func(_ string, p any) bool { return p.(map[string]any)["dev"] == true })
		projects = append(projects, packages[""].(map[string]any))
	}
	for _, project := range projects {
		project["name"] = name
		delete(project, "description")
		delete(project, "devDependencies")
	}
	text, failed := json.MarshalIndent(content, "", "  ")
	return append(text, '\n'), errors.Join(err, failed)
}

// goTool runs a go command in a directory, and returns its output. An error is what it says.
func goTool(dir string, args ...string) (output string, err error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s", strings.TrimSpace(strings.TrimPrefix(said.String(), "go: ")))
	}
	return string(out), err
}
