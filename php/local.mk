# SPDX-License-Identifier: Apache-2.0
#
# What of php/ is installed; a part of Makefile.am.

# auto_prepend_file is $(phpdir)/prepend.php
phpdir = $(datadir)/php/Sessiond
dist_php_DATA = \
	php/README.md \
	php/autoload.php \
	php/composer.json \
	php/prepend.php

phpsrcdir = $(phpdir)/src
dist_phpsrc_DATA = \
	php/src/Client.php \
	php/src/Connection.php \
	php/src/Deadline.php \
	php/src/Dsn.php \
	php/src/Extended.php \
	php/src/Key.php \
	php/src/Plain.php \
	php/src/Pool.php \
	php/src/SessiondException.php \
	php/src/SessiondHandler.php

phpdemodir = $(phpdir)/demo
dist_phpdemo_DATA = \
	php/demo/index.php

# beside autoload.php as in the source, since the pages look for it there
phpdomainsdir = $(phpdir)/examples/domains
dist_phpdomains_DATA = \
	php/examples/domains/HandOver.php \
	php/examples/domains/arrive.php \
	php/examples/domains/leave.php \
	php/examples/domains/subdomains.php

phpsymfonydir = $(phpdir)/examples/symfony
phpsymfonyconfigdir = $(phpsymfonydir)/config
dist_phpsymfonyconfig_DATA = \
	php/examples/symfony/config/services.yaml

phpsymfonypackagesdir = $(phpsymfonyconfigdir)/packages
dist_phpsymfonypackages_DATA = \
	php/examples/symfony/config/packages/framework.yaml

phpsymfonypublicdir = $(phpsymfonydir)/public
dist_phpsymfonypublic_DATA = \
	php/examples/symfony/public/index.php

phpsymfonysrcdir = $(phpsymfonydir)/src
dist_phpsymfonysrc_DATA = \
	php/examples/symfony/src/Kernel.php

phpmovingdir = $(phpdir)/examples/moving
dist_phpmoving_DATA = \
	php/examples/moving/to-files.php
