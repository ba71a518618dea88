package fanout

import (
	"path"
	"strconv"
	"strings"
)

// availableCores is how many of all cores this process may use. On Linux a control
// group may allow it a fraction of one, as containers and services do; GOMAXPROCS is
// at least 2 even then. The least quota counts.
func availableCores(all int, read func(name string) ([]byte, error)) float64 {
	least := float64(all)
	groups, err := read("/proc/self/cgroup")
	if err != nil {
		return least
	}
	for line := range strings.Lines(string(groups)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		// The quota of a parent counts too. In a container the path may be one of
		// the host, where only its root is to be seen.
		for dir := path.Clean("/" + fields[2]); ; dir = path.Dir(dir) {
			if cores := quota(fields[1], dir, read); cores > 0 {
				least = min(least, cores)
			}
			if dir == "/" {
				break
			}
		}
	}
	return least
}

// quota is the quota of a control group, in cores, or 0. Version 2 of control groups
// names no controllers.
func quota(controllers, dir string, read func(name string) ([]byte, error)) float64 {
	text := func(file string) string {
		content, _ := read(file) // none: no quota
		return string(content)
	}
	var limit, period string
	switch {
	case controllers == "":
		limit, period, _ = strings.Cut(text(path.Join("/sys/fs/cgroup", dir, "cpu.max")), " ")
	case strings.Contains(","+controllers+",", ",cpu,"):
		limit = text(path.Join("/sys/fs/cgroup/cpu", dir, "cpu.cfs_quota_us"))
		period = text(path.Join("/sys/fs/cgroup/cpu", dir, "cpu.cfs_period_us"))
	}
	l, _ := strconv.ParseFloat(strings.TrimSpace(limit), 64) // 0 for "max"
	p, err := strconv.ParseFloat(strings.TrimSpace(period), 64)
	if err != nil || p <= 0 {
		return 0
	}
	return l / p
}
