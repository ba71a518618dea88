package site

import "runtime/debug"

// Build is the version of the running program.
type Build struct {
	Version  string // of the module, or "(devel)"
	Revision string // of the source, with "+dirty" if files were changed; or "unknown"
	Go       string // version of Go that built it
}

// ThisBuild returns what the Go toolchain has written into the program.
func ThisBuild() Build {
	b := Build{Version: "unknown", Revision: "unknown", Go: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.Version, b.Go = info.Main.Version, info.GoVersion
	var dirty string
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			b.Revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+dirty"
		}
	}
	b.Revision += dirty
	return b
}

// String is the answer to "which version is this?".
func (b Build) String() string {
	return b.Version + ", revision " + b.Revision + ", built with " + b.Go
}
